"""What tests of public data sets share: a server on loopback, files in the published formats."""

import gzip
import http.server
import io
import json
import threading
import zipfile
import zlib
from contextlib import contextmanager


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``, with versions and ranges; may break off or leave those out."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        content = server.files.get(self.path.rsplit("/", 1)[-1])
        if content is None:
            self.send_error(404)
            return
        start = 0
        version = server.version(content)
        same = self.headers.get("If-Range") in {None, *version.values()}
        if "Range" in self.headers and server.takes_ranges and same:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        for name, value in version.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if server.breaks_at is None else server.breaks_at
        server.breaks_at = None  # only the first transfer breaks off
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    """A server in a thread of its own; what it serves and was asked for are its attributes."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.files, httpd.asked = {}, []
        httpd.takes_ranges, httpd.breaks_at, httpd.version = True, None, etag
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/data"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def etag(content):
    return {"ETag": f'"{zlib.crc32(content)}"'}


def zipped_lines(*rows):
    return gzip.compress("\n".join(rows).encode(), mtime=0)


def json_lines(*rows):
    return zipped_lines(*map(json.dumps, rows))


def python_lines(*rows):
    return zipped_lines(*map(repr, rows))


def movielens_zip(ratings, movies):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", ratings.encode("latin-1"))
        archive.writestr("ml-1m/movies.dat", movies.encode("latin-1"))
    return file.getvalue()


def review(user, item, time):
    return {"reviewerID": user, "asin": item, "reviewText": "so\nso", "unixReviewTime": time}
