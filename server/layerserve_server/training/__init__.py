"""Training and evaluation runs: each has a folder for its data, events, checkpoints and result, and a child process.

Training never touches what serves. A finished run is published as a new version by an atomic rename. The repository
swaps to it while the old version finishes its requests.

An interrupted run (its process was killed, or the server stopped) keeps all files that it needs to be resumed. If the
server is killed, the run's process goes on, and the next server attaches to it (`Runs._adopt`).

STATE/runs/ID/request.json     the request, with the base version
STATE/runs/ID/base/            copy of the base version's files; until the run ends
STATE/runs/ID/data/N.npy       uploaded arrays, and arrays unpacked from data files; until the run ends
STATE/runs/ID/checkpoints/     the latest checkpoint; until the run ends
STATE/runs/ID/best/            model of the best epoch so far, if that is to be published; until the run ends
STATE/runs/ID/files/           files written by callbacks
STATE/runs/ID/events.jsonl     event log; append-only, one writer at a time
STATE/runs/ID/outcome.json     result of the child process (`RunResult`), unless it was killed
STATE/runs/ID/result/          the trained model, until it is published
STATE/runs/ID/owner.lock       locked by the server that owns the run; names that server
STATE/runs/ID/child.lock       locked by the child process while it is alive
"""
