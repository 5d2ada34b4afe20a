#!/usr/bin/env python3
"""A verifier that keeps Keyroll's versions in a JSON file, each as a salted hash. Copy it and put your system's calls in."""
import fcntl, hashlib, json, os, sys

request = json.load(sys.stdin)
path = sys.argv[1]

# One at a time: somebody else's change between our read and our write would be lost otherwise.
lock = open(path + ".lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)

try:
    with open(path) as file:
        lines = json.load(file)
except FileNotFoundError:
    lines = {}


def digest(salt, material):
    return hashlib.pbkdf2_hmac("sha256", material["value"].encode(), bytes.fromhex(salt), 1000).hex()


def fits(line, version):
    return "salt" in line and "material" in version and line["hash"] == digest(line["salt"], version["material"])


def save():
    # Complete, then in place: a reader never sees half of it.
    with open(path + ".new", "w") as file:
        json.dump(lines, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


verb = request["verb"]
version = request.get("version")
answer = {}
if verb == "observe":
    # `recognise: value` in keyroll.yaml: the known versions come with their secrets, so that a changed line is not taken for ours.
    answer["entries"] = []
    for mark, line in lines.items():
        entry = {"mark": mark, "enabled": True}
        for known in request["known"]:
            if fits(line, known):
                entry["version"] = known["id"]
        answer["entries"].append(entry)
elif verb == "add":
    # Already there is success, and everything else stays.
    if not fits(lines.get(version["id"], {}), version):
        salt = os.urandom(16).hex()
        lines[version["id"]] = {"salt": salt, "hash": digest(salt, version["material"])}
        save()
    answer["placement"] = {"slot": version["id"]}
elif verb == "remove":
    # Already gone is success, and a line that is no longer this version is somebody else's.
    if fits(lines.get(version["id"], {}), version):
        del lines[version["id"]]
        save()
elif verb == "probe":
    there = any(fits(line, version) for line in lines.values())
    answer = {"outcome": "accepted" if there else "refused", "detail": f"looked in {len(lines)} lines"}
else:
    answer = {"error": {"kind": "misconfigured", "message": f"This program does not know the verb {verb}."}}
json.dump(answer, sys.stdout)
