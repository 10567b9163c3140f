"""Training runs: a child process each, its folder, its data, its events, its result.

STATE/runs/ID/request.json     what was asked for, and the base version
STATE/runs/ID/base/            a copy of the base version's file, until the run ends
STATE/runs/ID/data/N.npy       the arrays, until the run ends
STATE/runs/ID/events.jsonl     all that happened; append only, one writer at a time
STATE/runs/ID/outcome.json     how the child ended, unless it was killed
STATE/runs/ID/result/          the trained model, until it is published
STATE/runs/ID/owner.lock       held by the server that looks after the run
STATE/runs/ID/child.lock       held by the child while it lives
"""
