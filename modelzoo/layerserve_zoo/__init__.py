"""The ten models of Keras's functional-API guide, written as the guide writes them; only the import differs.

from layerserve_zoo.zoo import ZOO

model = ZOO["headline"].make()
"""
