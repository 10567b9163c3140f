"""Recurrent layers.

Way in: `recurrent` (SimpleRNN, LSTM, GRU, RNN). A layer runs a cell of `cells`, or a caller's own (`custom_cells`),
over the timesteps: in torch's `kernels` where they compute the same, else in a loop (`recorded_loop` while a graph is
traced). `convolutional` has ConvLSTM.
"""
