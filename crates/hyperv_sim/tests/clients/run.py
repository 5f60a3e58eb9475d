"""Runs one scenario against a running host: `run.py SCENARIO`. Called by the Rust test of the same name.

The environment says where the host is: REPRISE_EXE, REPRISE_FOLDER, REPRISE_URL, REPRISE_USER, REPRISE_PASSWORD,
REPRISE_AUTH (`basic`, `ntlm`, or `bare` for the client of the standard library), REPRISE_CERTIFICATE (of an HTTPS host).
`--list` prints all scenarios, each on a line with its kind; `--test-rules` tests what replies are judged by.
"""

import importlib
import os
import sys
import traceback

from host import Host

# A scenario takes a host and a client. Those of kind `pypsrp` are for every form of authentication, those of kind `sealed`
# for NTLM over HTTP; the bare ones need nothing but the standard library.
MODULES = {"pypsrp": ("reading", "checkpoints", "machines", "refusals"), "sealed": ("sealed",), "bare": ("bare",)}


def scenarios(kind):
    return [scenario for name in MODULES[kind] for scenario in importlib.import_module(name).SCENARIOS]


def connect(url, user, password, auth, certificate):
    if auth == "bare":
        from bare import Bare

        return Bare(url, user, password)
    from psrp import Psrp

    return Psrp(url, user, password, auth, certificate)


def main(arguments):
    if arguments == ["--list"]:
        for kind in MODULES:
            for scenario in scenarios(kind):
                print(kind, scenario.__name__)
        return 0
    if arguments == ["--test-rules"]:
        importlib.import_module("rules_test").run()
        return 0
    (name,) = arguments
    auth = os.environ["REPRISE_AUTH"]
    kinds = ["bare"] if auth == "bare" else ["pypsrp", "sealed"]
    found = [found for kind in kinds for found in scenarios(kind) if found.__name__ == name]
    assert len(found) == 1, f"{len(found)} scenarios are named {name}"
    host = Host(os.environ["REPRISE_EXE"], os.environ["REPRISE_FOLDER"], os.environ["REPRISE_URL"])
    client = connect(
        host.url,
        os.environ["REPRISE_USER"],
        os.environ["REPRISE_PASSWORD"],
        auth,
        os.environ.get("REPRISE_CERTIFICATE"),
    )
    try:
        found[0](host, client)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
