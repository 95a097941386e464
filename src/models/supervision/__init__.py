"""What a model computes from outputs and targets besides its loss: metrics chosen in the config, class weights."""
