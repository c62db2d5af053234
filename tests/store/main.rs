//! The conformance suite: the same cases on every store, then what only one of them can show.

mod create;
mod fixture;
#[path = "../support/postgres.rs"]
mod support;

/// Makes a test of each case for each backend.
macro_rules! on_both {
    ($($module:ident: $($case:ident),+;)+) => {
        mod postgres_store {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    crate::$module::$case(crate::fixture::postgres().await).await;
                }
            )+)+
        }

        mod sqlite_store {
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    crate::$module::$case(crate::fixture::sqlite().await).await;
                }
            )+)+
        }
    };
}

on_both! {
    create: a_new_key_reads_back_whole, create_is_idempotent_by_id, digest_collision, an_id_is_never_given_to_another_key,
        find_by_digest, one_installation_wins, one_first_root_key, no_first_root_key_beside_a_key,
        first_root_key_is_idempotent_by_id;
}
