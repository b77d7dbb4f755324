"""``python -m openziti enroll -j TOKEN -i IDENTITY``: the identity file is made as the umask has it."""

import argparse
from pathlib import Path

from . import zitilib

parser = argparse.ArgumentParser("openziti")
enroll = parser.add_subparsers(dest="subcommand").add_parser("enroll", help="enroll identity")
enroll.add_argument("-j", "--jwt", required=True)
enroll.add_argument("-i", "--identity", required=True)
enroll.add_argument("-k", "--key")
enroll.add_argument("-c", "--cert")
arguments = parser.parse_args()
if arguments.subcommand is None:
    parser.print_help()
else:
    token = Path(arguments.jwt).read_text()
    with open(arguments.identity, "wb") as file:
        file.write(zitilib.enroll(token, key=arguments.key, cert=arguments.cert).encode())
