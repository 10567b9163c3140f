"""Order of layers and calls: that of Keras, for any graph."""

import random
from typing import Any

import keras
import layergraph
import pytest
from layergraph import Input, Model
from layergraph.errors import GraphError
from layergraph.layers import Dense
from random_graphs import random_model


@pytest.mark.filterwarnings("ignore:.*destroy the mask information:UserWarning")
@pytest.mark.parametrize("seed", range(10))
def test_layers_are_listed_as_keras_lists_them(seed: int) -> None:
    expected = [layer.name for layer in random_model(keras, seed).layers]
    assert [layer.name for layer in random_model(layergraph, seed).layers] == expected


def shared_calls(k: Any, seed: int) -> Any:
    """A few layers, each called at several depths, on results of previous calls and on sums of them."""
    rng = random.Random(seed)
    entries = [k.Input((3,), name=f"entry_{i}") for i in range(2)]
    pool = [k.layers.Dense(3, name=f"dense_{i}") for i in range(4)]
    made = list(entries)
    for number in range(9):
        if rng.random() < 0.25:
            made.append(k.layers.Add(name=f"sum_{number}")(rng.sample(made, 2)))
        else:
            made.append(rng.choice(pool)(rng.choice(made)))
    return k.Model(entries, [made[-1], *rng.sample(made[2:-1], 2)])


@pytest.mark.parametrize("seed", range(10))
def test_shared_layers_are_listed_as_keras_lists_them(seed: int) -> None:
    expected, model = shared_calls(keras, seed), shared_calls(layergraph, seed)
    assert [layer.name for layer in model.layers] == [layer.name for layer in expected.layers]
    assert [weight.shape for weight in model.weights] == [tuple(weight.shape) for weight in expected.weights]


def test_a_shared_layer_stands_where_its_deepest_call_does() -> None:
    def orders(k: Any) -> list[str]:
        x = k.Input((3,), name="x")
        shared, middle, last = (k.layers.Dense(3, name=name) for name in ("shared", "middle", "last"))
        return [layer.name for layer in k.Model(x, [last(middle(shared(x))), shared(last(x))]).layers]

    assert orders(layergraph) == orders(keras)


def test_a_part_that_is_cut_out_makes_no_call_before_it_again() -> None:
    x = Input((3,))
    before, after = Dense(3), Dense(2)
    middle = before(x)
    part = Model(middle, after(middle))
    assert [layer.name for layer in part.layers[1:]] == [after.name]
    assert (len(before.inbound_nodes), len(after.inbound_nodes)) == (1, 2)


def test_calls_are_sorted_where_layers_cannot_be() -> None:
    a, b = Dense(3, name="a"), Dense(3, name="b")
    x = Input((3,))
    model = Model(x, a(b(a(b(x)))))
    order = [(node.layer.name, model.graph.numbers[node]) for node in model.graph.nodes]
    assert order[1:] == [("b", 0), ("a", 0), ("b", 1), ("a", 1)]


def test_a_deep_chain_needs_no_recursion() -> None:
    layer = Dense(2)
    x = first = Input((2,))
    for _ in range(3000):
        x = layer(x)
    assert len(Model(first, x).graph.nodes) == 3001


def test_inputs_that_nothing_needs_belong_to_the_model() -> None:
    x, unused = Input((3,), name="x"), Input((4,), name="unused")
    model = Model([x, unused], Dense(2)(x))
    assert {"x", "unused"} <= {layer.name for layer in model.layers}
    assert model.input_names == ["x", "unused"]


def test_an_output_that_the_inputs_do_not_reach_is_refused() -> None:
    x, other = Input((3,), name="x"), Input((3,), name="other")
    with pytest.raises(GraphError, match=r"disconnected.*'other'"):
        Model(x, Dense(2)(other))


def test_two_layers_of_one_name_are_refused() -> None:
    x = Input((3,))
    with pytest.raises(GraphError, match="several layers are named 'same'"):
        Model(x, Dense(2, name="same")(Dense(2, name="same")(x)))
