//! See `model.rs`: the model is a test.
