"""The `digits` dataset: scikit-learn's 1,797 handwritten digits, needing no network."""
