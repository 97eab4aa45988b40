#!/usr/bin/env bash
# Makes old_home.tar.xz and old_home.json with the code of commit 1b29ac5.
#
#   BASE=/path/to/clone make_old_home.sh
#
# BASE is a clone at that commit with its environment in BASE/.venv; nothing is written there.
# ROOT is the folder the home is built in. It must not exist. The exported file's path is recorded
# in the home, so ROOT is a name that says nothing about the machine.
set -euo pipefail

BASE=${BASE:?a clone at commit 1b29ac5, with its environment in .venv}
ROOT=${ROOT:-/fixture}
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON=$BASE/.venv/bin/python

for name in $(compgen -e REFINE_ || true) DAGSTER_HOME; do unset "$name"; done
export PYTHONPATH=$BASE PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export TZ=UTC LC_ALL=C.UTF-8 TERM=dumb
test "$(git -C "$BASE" rev-parse --short=7 HEAD)" = 1b29ac5

mkdir "$ROOT"
CHECK=$(mktemp -d)
trap 'rm -rf "$ROOT" "$CHECK"' EXIT

cat >"$CHECK/old_seeds.py" <<'PY'
"""Writes the seed files: `seeds_before.jsonl` (first run) and `seeds.jsonl` (second run).

python old_seeds.py FOLDER
"""

import json
import sys
from pathlib import Path

from tests.pipeline.conftest import TINY_SEEDS
from tests.pipeline.project import TEXTS, packaged_seeds

folder = Path(sys.argv[1])


def write(name, seeds):
    lines = (json.dumps(seed, ensure_ascii=False) + "\n" for seed in seeds)
    (folder / name).write_text("".join(lines), encoding="utf-8")


seeds = packaged_seeds(TINY_SEEDS)
write("seeds_before.jsonl", seeds)
# One seed edited, one removed, one added.
seeds[3] = {**seeds[3], "instruction": f"{TEXTS[1]} (edited)"}
seeds.append({**seeds[7], "id": "added_1", "instruction": f"{TEXTS[0]} 1"})
del seeds[7]
write("seeds.jsonl", seeds)
PY
cat >"$CHECK/old_command.py" <<'PY'
"""Runs the command line as the tests do: without the checks of learning, listing sent requests.

    python old_command.py SENT_FILE COMMAND ...

With OLD_FORCED=1 in the environment every asset's revision is raised, so that no asset ends as
unchanged, and a training fails.
"""

import os
import sys
from pathlib import Path

from tests.pipeline.children import _leave_out_checks_of_learning, _list_what_is_sent

_leave_out_checks_of_learning()
_list_what_is_sent(Path(sys.argv[1]))

if os.environ.get("OLD_FORCED"):
    from assets.versions import REVISIONS
    from refine_dagster.lineage.checkpoints import CheckpointStore

    for name, (revision, sections) in list(REVISIONS.items()):
        REVISIONS[name] = (revision + 100, sections)
    train_or_reuse = CheckpointStore.train_or_reuse

    def reuse(self, asset, manifest, train):
        def refuse(folder):
            raise AssertionError(f"{asset} was trained")

        return train_or_reuse(self, asset, manifest, refuse)

    CheckpointStore.train_or_reuse = reuse

from refine_dagster.cli import main  # noqa: E402

sys.argv = ["refine-dagster", *sys.argv[2:]]
main()
PY
cat >"$CHECK/old_expectations.py" <<'PY'
"""Writes what a test expects of the home, as JSON.

python old_expectations.py HOME OUT_FILE AUDIT_JSON
"""

import hashlib
import json
import sys
from pathlib import Path

import duckdb

from refine_dagster.lineage.tables import TABLES, graph_assets
from tests.pipeline.children import CHECKS_OF_LEARNING
from tests.pipeline.home_content import TELL_OF_RUNS

home, out, audit_file = (Path(one) for one in sys.argv[1:4])
connection = duckdb.connect(str(home / "warehouse.duckdb"), read_only=True)


def rows(sql, parameters=None):
    return connection.execute(sql, parameters).fetchall()


last = rows(
    "SELECT asset, max(sequence), arg_max(data_version, sequence), "
    "arg_max(code_version, sequence), arg_max(rows_total, sequence) "
    "FROM lineage.materializations GROUP BY asset ORDER BY asset"
)
recorded = {
    name: content_hash
    for (tables,) in rows(
        "SELECT arg_max(tables, sequence) FROM lineage.materializations GROUP BY asset"
    )
    for name, content_hash in json.loads(tables).items()
}
tables = {}
for name, table in TABLES.items():
    ((live, removed),) = rows(
        "SELECT count(*) FILTER (removed_in IS NULL), count(*) FILTER (removed_in IS NOT NULL) "
        f"FROM history.{name}"
    )
    ids = "\n".join(
        one
        for (one,) in rows(
            f"SELECT row_id FROM history.{name} WHERE removed_in IS NULL ORDER BY row_id"
        )
    )
    tables[name] = {
        "asset": table.asset,
        "live_rows": live,
        "removed_rows": removed,
        "content_hash": recorded.get(name),
        "row_ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
    }
marts = {
    name: {
        "rows": rows(f"SELECT count(*) FROM marts.{name}")[0][0],
        "content_hash": recorded[f"marts.{name}"],
    }
    for (name,) in rows(
        "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'marts' ORDER BY 1"
    )
}
runs = [
    {
        "run": number,
        "materializations": count,
        "requests_asked": asked,
        "requests_reused": reused,
        "requests_sent": sent,
        "rows_added": added,
        "rows_removed": removed,
    }
    for number, (_, count, asked, reused, sent, added, removed, _) in enumerate(
        rows(
            "SELECT run_id, count(*), sum(requests_asked)::BIGINT, sum(requests_reused)::BIGINT, "
            "sum(requests_sent)::BIGINT, sum(rows_added)::BIGINT, sum(rows_removed)::BIGINT, "
            "min(sequence) FROM lineage.materializations GROUP BY run_id ORDER BY min(sequence)"
        ),
        1,
    )
]
told = {
    "made_by_commit": "1b29ac57b02d042480f86387edae13a2afb25d9a",
    "archive": {
        "home/warehouse.duckdb": "the warehouse",
        "home/checkpoints": "the artifact root",
        "old_home.yaml": "the profile",
        "seeds.jsonl": "the seed file of the last run",
    },
    "settings": {
        "command": "refine-dagster run --profile old_home.yaml --seeds seeds.jsonl",
        "profile": "old_home.yaml",
        "overrides": {"seeds.path": "seeds.jsonl"},
        "environment": {
            "REFINE_HOME": "home",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        },
        "no_other_variable_begins_with": "REFINE_",
        "checks_left_out": sorted(CHECKS_OF_LEARNING),
    },
    "runs": runs,
    "materializations": rows("SELECT count(*) FROM lineage.materializations")[0][0],
    "last_digest": rows("SELECT arg_max(digest, sequence) FROM lineage.materializations")[0][0],
    "schema_version": rows("SELECT max(version) FROM main.schema_migrations")[0][0],
    "completions": rows("SELECT count(*) FROM store.completions")[0][0],
    "completions_by_role": dict(
        rows("SELECT role, count(*) FROM store.completions GROUP BY role ORDER BY role")
    ),
    "completion_keys_sha256": hashlib.sha256(
        "\n".join(key for (key,) in rows("SELECT key FROM store.completions ORDER BY key")).encode()
    ).hexdigest(),
    "parents": rows("SELECT count(*) FROM lineage.parents")[0][0],
    "uses": rows("SELECT count(*) FROM lineage.uses")[0][0],
    "checkpoints": [
        {
            "asset": asset,
            "content_hash": content,
            "manifest_hash": manifest,
            "path": path,
            "sequence": sequence,
            "live": live,
        }
        for asset, content, manifest, path, sequence, live in rows(
            "SELECT asset, content_hash, manifest_hash, path, sequence, content_hash IN ("
            + " UNION ".join(
                f"SELECT checkpoint_hash FROM main.{name} WHERE checkpoint_hash IS NOT NULL"
                for name, table in TABLES.items()
                if "checkpoint_hash" in table.columns
            )
            + ") FROM lineage.checkpoints ORDER BY asset, sequence, content_hash"
        )
    ],
    "assets": {
        asset: {"sequence": sequence, "data_version": version, "code_version": code, "rows": total}
        for asset, sequence, version, code, total in last
    },
    "graph_assets": list(graph_assets(2)),
    "assets_whose_version_tells_of_runs": list(TELL_OF_RUNS),
    "retired": [
        one
        for (one,) in rows(
            "SELECT DISTINCT asset FROM lineage.materializations "
            "WHERE code_version = 'retired' ORDER BY 1"
        )
    ],
    "tables": tables,
    "marts": marts,
    "audit_verify_deep": json.loads(audit_file.read_text(encoding="utf-8")),
}
out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
PY
cat >"$CHECK/old_same.py" <<'PY'
"""Compares two homes; fails where live content, versions, checkpoints or completions differ.

    python old_same.py HOME OTHER LAST_SEQUENCE [EXPECTATIONS]

With EXPECTATIONS, the requests asked since LAST_SEQUENCE are added to that JSON file.
"""

import json
import sys
from pathlib import Path

from refine_dagster.home import Home
from refine_dagster.lineage.warehouse import Warehouse
from tests.pipeline.home_content import TELL_OF_RUNS, assert_sound, content

home, other = (Home(Path(one)) for one in sys.argv[1:3])
assert content(home) == content(other)
assert_sound(other)
folders = [sorted(p.relative_to(h.root) for p in h.checkpoints.rglob("*")) for h in (home, other)]
assert folders[0] == folders[1], "checkpoint folders differ"
records, asked, sent, added, removed = (
    Warehouse(other.warehouse)
    .query(
        "SELECT count(*), sum(requests_asked)::BIGINT, sum(requests_sent)::BIGINT, "
        "sum(rows_added) FILTER (NOT list_contains(?, asset))::BIGINT, "
        "sum(rows_removed) FILTER (NOT list_contains(?, asset))::BIGINT "
        "FROM lineage.materializations WHERE sequence > ?",
        [list(TELL_OF_RUNS), list(TELL_OF_RUNS), int(sys.argv[3])],
    )
    .row(0)
)
print(
    f"same content; {records} records, asked {asked}, sent {sent}, added {added}, removed {removed}"
)
assert (sent, added, removed) == (0, 0, 0)
if len(sys.argv) > 4:
    told = Path(sys.argv[4])
    expected = json.loads(told.read_text(encoding="utf-8"))
    expected["requests_asked_when_every_revision_is_raised"] = dict(
        Warehouse(other.warehouse)
        .query(
            "SELECT asset, requests_asked FROM lineage.materializations "
            "WHERE sequence > ? AND requests_asked > 0 ORDER BY sequence",
            [int(sys.argv[3])],
        )
        .rows()
    )
    told.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
PY

cd "$ROOT"
cp "$HERE/old_home.yaml" .
$PYTHON "$CHECK/old_seeds.py" .

run() { # SENT_FILE ARGUMENTS...
    nice -n 5 "$PYTHON" "$CHECK/old_command.py" "$@"
}
timed() { # NAME COMMAND...
    local began=$SECONDS name=$1
    shift
    "$@" >"$CHECK/$name.log" 2>&1 || { tail -50 "$CHECK/$name.log"; exit 1; }
    echo "$name: $((SECONDS - began)) s"
}

export REFINE_HOME=$ROOT/home
# Three policy rounds, then two and an edited seed file: round 3 is retired, others lose rows.
timed first run first.sent run --profile old_home.yaml --seeds seeds_before.jsonl --set rounds=3
timed second run second.sent run --profile old_home.yaml --seeds seeds.jsonl
timed export run export.sent export --to "$ROOT/dataset.json"
timed audit run audit.sent audit verify --deep --format json
rm "$ROOT/dataset.json"
# As it is for whoever unpacks it: the exported file is elsewhere.
run audit.sent audit verify --deep --format json >"$CHECK/audit.json"
$PYTHON "$CHECK/old_expectations.py" home "$HERE/old_home.json" "$CHECK/audit.json"

# Dagster's own storage and the empty lock file stay out.
tar --create --sort=name --format=ustar --owner=0 --group=0 --numeric-owner \
    --mode=u=rwX,go=rX --mtime=@0 \
    home/warehouse.duckdb home/checkpoints old_home.yaml seeds.jsonl |
    xz -9e --threads=1 --check=crc64 >"$HERE/old_home.tar.xz"

# Unpacked elsewhere: whole, and a run with the same settings asks nothing and trains nothing.
mkdir "$CHECK/unpacked" "$CHECK/kept"
tar --extract --xz --directory "$CHECK/unpacked" --file "$HERE/old_home.tar.xz"
cp -r "$CHECK/unpacked/home" "$CHECK/kept/home"
last=$($PYTHON -c "import json; print(json.load(open('$HERE/old_home.json'))['materializations'])")
cd "$CHECK/unpacked"
export REFINE_HOME=$CHECK/unpacked/home
run none.sent audit verify --deep
timed again run "$CHECK/again.sent" run --profile old_home.yaml --seeds seeds.jsonl
test ! -e "$CHECK/again.sent"
run none.sent audit verify --deep
$PYTHON "$CHECK/old_same.py" "$CHECK/kept/home" home "$last"

# The same where nothing counts as unchanged: all requests are answered from the store.
rm -rf home && cp -r "$CHECK/kept/home" home
OLD_FORCED=1 timed forced run "$CHECK/forced.sent" run --profile old_home.yaml --seeds seeds.jsonl
test ! -e "$CHECK/forced.sent"
run none.sent audit verify --deep
$PYTHON "$CHECK/old_same.py" "$CHECK/kept/home" home "$last" "$HERE/old_home.json"
ls -l "$HERE/old_home.tar.xz" "$HERE/old_home.json"
sha256sum "$HERE/old_home.tar.xz"
