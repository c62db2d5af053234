//! The generated service traits, implemented for [`super::api::GrpcApi`].

mod audit;
mod authorization;
mod key;
