"""Runs that train or evaluate: a child process each, its folder, its data, its events, its checkpoints, its result.

A run that is interrupted (its process killed, the server stopped) keeps all that it needs to be resumed.

STATE/runs/ID/request.json     what was asked for, and the base version
STATE/runs/ID/base/            a copy of the base version's file, until the run ends
STATE/runs/ID/data/N.npy       the arrays that were sent, and those unpacked from files, until the run ends
STATE/runs/ID/checkpoints/     the state that training goes on from, until the run ends
STATE/runs/ID/best/            the best epoch's model so far, where that is to be published, until the run ends
STATE/runs/ID/files/           what callbacks write
STATE/runs/ID/events.jsonl     all that happened; append only, one writer at a time
STATE/runs/ID/outcome.json     how the child ended, unless it was killed
STATE/runs/ID/result/          the trained model, until it is published
STATE/runs/ID/owner.lock       held by the server that looks after the run; says which that is
STATE/runs/ID/child.lock       held by the child while it lives
"""
