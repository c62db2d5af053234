//! Empty: the model is an integration test, see `model.rs`.
