"""Models that compute a sequence step by step: some timesteps in each call, with states kept between the calls.

Way in: `Model.stepper()`. `time_axis` finds which tensors have timesteps, `step_graph` repeats the model's calls in a
graph with states as inputs and outputs: `recurrent` and `causal_convolution` have what is called instead of layers that
look back. `call_check` tries each other call on parts of a sequence, and `proof` the whole model. Way out: a `Stepper`,
or NotSteppableError with the layer and the reason.
"""
