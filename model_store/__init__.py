"""Everything before traffic: registry -> ONNX -> candidates -> gates -> bundle."""
