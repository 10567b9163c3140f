from __future__ import annotations

import pytest
from layerserve import Checkpoints, InvalidArgument, Publish, Resources
from layerserve.online import api, blocking
from layerserve.online.options import ONLINE
from layerserve.training.options.option import fill
from layerserve.v1 import online_pb2
from option_values import check_shown


@pytest.mark.parametrize(
    "given",
    [{"publish": Publish(best=True)}, {"checkpoints": Checkpoints(keep=1)}, {"resources": Resources(workers=2)}],
)
def test_what_a_session_does_not_have_is_refused(given):
    with pytest.raises(InvalidArgument, match=r"\w+.(best|keep|workers): got .*, expected none for a session"):
        fill(online_pb2.OnlineSpec(), ONLINE, given)
    fill(online_pb2.OnlineSpec(), ONLINE, {})


@pytest.mark.parametrize("function", [api.AsyncOnline.session, blocking.Online.session])
def test_people_see_all_options(function):
    check_shown(function, ONLINE)
