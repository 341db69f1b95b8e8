"""Every MLflow call of the program.

- `store`: where results are kept
- `record`: what one run leaves there
- `study`: what a study's runs left, read back, and the views that show them in MLflow's dashboard
- `views`: the format of these views

MLflow is imported where it is used, so that composing a configuration stays fast.
"""
