"""All checks, in the order of the promises."""

from attack import (
    draining,
    http_requests,
    lists,
    memory,
    model_files,
    neighbours,
    restart,
    services,
    statuses,
    streams,
    tokens,
    trainings,
    watches,
)

CHECKS = [
    *watches.CHECKS,
    *draining.CHECKS,
    *streams.CHECKS,
    *memory.CHECKS,
    *neighbours.CHECKS,
    *lists.CHECKS,
    *tokens.CHECKS,
    *http_requests.CHECKS,
    *statuses.CHECKS,
    *restart.CHECKS,
    *trainings.CHECKS,
    *services.CHECKS,
    *model_files.CHECKS,
]
