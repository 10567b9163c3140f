"""All checks, in the order of the promises."""

from attacks import floods, memory, statuses, watches

from attack import (
    draining,
    http_requests,
    images,
    lists,
    model_files,
    neighbours,
    restart,
    services,
    streams,
    tokens,
    trainings,
)

CHECKS = [
    *watches.CHECKS,
    *draining.CHECKS,
    *streams.CHECKS,
    *memory.CHECKS,
    *floods.CHECKS,
    *neighbours.CHECKS,
    *lists.CHECKS,
    *tokens.CHECKS,
    *http_requests.CHECKS,
    *statuses.CHECKS,
    *restart.CHECKS,
    *trainings.CHECKS,
    *services.CHECKS,
    *model_files.CHECKS,
    *images.CHECKS,
]
