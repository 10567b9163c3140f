"""The ten models of Keras's functional API guide, with the guide's own code; only the imports differ.

from layerserve_zoo.zoo import ZOO

model = ZOO["headline"].make()
"""
