import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tests.crash
from tests.crash.faults import give_up_rights
from tests.crash.run import run

NAMESPACE = "LLMPROXY_CRASH_TEST_NAMESPACE"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash",
        description=tests.crash.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    if NAMESPACE not in os.environ:
        _enter_namespace()
    print(f"seed {options.seed}", flush=True)
    give_up_rights()
    with tempfile.TemporaryDirectory(prefix="llmproxy-crash-", ignore_cleanup_errors=True) as folder:
        counts = run(Path(folder), options.minutes * 60, options.seed, mount=os.environ[NAMESPACE] == "own")
        for name, count in counts.items():
            print(f"{count:>8}  {name}")


def _enter_namespace() -> None:
    """Run in a mount namespace of our own, so that the disks that we mount to fill them are seen by nobody else and
    end with us. Where the system does not allow it, files are kept from growing in another way."""
    unshare = shutil.which("unshare")
    own = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    allowed = unshare and subprocess.run([unshare, *own, "true"], capture_output=True, check=False).returncode == 0
    os.environ[NAMESPACE] = "own" if allowed else "none"
    if unshare and allowed:
        command = [unshare, *own, sys.executable, "-m", "tests.crash", *sys.argv[1:]]
        os.execv(unshare, command)


if __name__ == "__main__":
    main()
