//! What faces the network: conversion and wiring only.

pub mod calls;
pub mod grpc;
pub mod rest;
pub mod status;
pub mod terms;
pub mod tls;
