//! Black-box tests of the public contract: a real server, called over gRPC and REST.

#![allow(clippy::similar_names, reason = "noro and nora are two products")]

#[path = "../support/mod.rs"]
mod support;

mod commit;
mod config;
mod dashboard_bounds;
mod dashboard_forms;
mod dashboard_keys;
mod dashboard_pages;
mod dashboard_people;
mod dashboard_sign_in;
mod grpc_admin;
mod grpc_bounds;
mod grpc_callers;
mod grpc_create;
mod grpc_events;
mod grpc_hostile;
mod grpc_list;
mod grpc_rate;
mod grpc_revoke;
mod grpc_server;
mod grpc_stream;
mod grpc_verdicts;
mod grpc_wire;
mod guessing;
mod hostile;
mod logging;
mod master_keys;
mod matrix;
mod names;
mod operation;
mod own_limits;
mod queries;
mod reference;
mod rest_access;
mod rest_bodies;
mod rest_credentials;
mod rest_environment;
mod rest_events;
mod rest_forms;
mod rest_fuzz;
mod rest_hostile;
mod rest_http2;
mod rest_identity;
mod rest_limits;
mod rest_list;
mod rest_manage;
mod rest_openapi;
mod rest_own;
mod rest_probes;
mod rest_public;
mod rest_secrecy;
mod rest_surface;
mod rest_verify;
mod service_keyspaces;
mod session_cookies;
mod session_keys;
mod session_roles;
mod session_tokens;
mod smoke;
mod tenants;
mod tls;
mod tls_callers;
