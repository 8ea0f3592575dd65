"""A fake sudo: `sudo -n PROGRAM ...` runs it, or asks for a password where FAKE_SUDO is "asks"."""

import os
import sys

if sys.argv[1:2] != ["-n"] or os.environ.get("FAKE_SUDO") == "asks":
    sys.stderr.write("sudo: a password is required\n")
    sys.exit(1)
os.environ["FAKE_ROOT"] = "yes"
os.execvp(sys.argv[2], sys.argv[2:])
