"""KerasHub's model classes: backbones, and tasks on them.

A file names a class and its hyperparameters. The class makes the calls that KerasHub makes, since weights are numbered
by the order of layers. Such a model is saved as its class again. A preset folder has two files of weights for one
model: the backbone's, and the task's.
"""
