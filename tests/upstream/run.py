"""Runs PEFT's own tests, unmodified, on Bi-Tuning: ``python tests/upstream/run.py [pytest args]``.

The tests come from the source distribution of the installed PEFT, the models they load are tiny
random ones under the same ids, and plugin.py puts our configurations in the place of PEFT's.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from models import write_hub

HERE = Path(__file__).resolve().parent
FILES = ("test_config.py", "test_decoder_models.py", "test_feature_extraction_models.py")
# Fewer would mean that upstream renamed what plugin.py looks for and it silently checks nothing.
MINIMUM_PASSED = 1400


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HERE.parents[1] / ".cache" / "upstream")
    parser.add_argument("--minimum", type=int, default=MINIMUM_PASSED, help="tests that must pass")
    arguments, pytest_arguments = parser.parse_known_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")

    root = unpacked_tests(folder)
    # Every time: it takes a second, and what an older models.py wrote would mislead.
    write_hub(folder / "home" / "hub")
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    environment |= {
        "HF_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        status = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-c", "pytest.ini", "--noconftest"),
                *("-p", "plugin", "-p", "no:cacheprovider", f"--junitxml={report}"),
                *("-q", "--disable-warnings", "-n", "2"),
                *(f"tests/{name}" for name in FILES),
                str(HERE / "test_more.py"),
                *pytest_arguments,
            ],
            cwd=root,
            env=environment,
        ).returncode
        good = report.exists() and judge(report, arguments.minimum)
    return status or int(not good)


def unpacked_tests(folder: Path) -> Path:
    """Returns the folder that holds the ``tests`` of the installed PEFT as a package."""
    name = f"peft-{version('peft')}"
    root = folder / name
    if not (root / "pytest.ini").exists():
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)),
                name.replace("-", "==", 1),
            ],
            check=True,
        )
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            archive.extractall(
                folder,
                [m for m in archive.getmembers() if m.name.startswith(f"{name}/tests/")],
                filter="data",
            )
        # The distribution lacks this file, and the tests import their neighbours relatively.
        (root / "tests" / "__init__.py").touch()
        # An own one, lest pytest takes our repository's settings; last, as it marks completion.
        (root / "pytest.ini").write_text("[pytest]\n")
    return root


def judge(report: Path, minimum: int) -> bool:
    """Prints and returns the verdict on a finished run."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, failures, errors, skipped = (
        int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    passed = total - failed - skipped
    good = failed == 0 and passed >= minimum
    sys.stdout.write(
        f"PEFT {version('peft')}'s own tests on Bi-Tuning: {'good' if good else 'BAD'}: "
        f"{passed} passed (at least {minimum} must), {failed} failed, {skipped} skipped\n"
    )
    return good


if __name__ == "__main__":
    sys.exit(main())
