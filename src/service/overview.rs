//! The numbers of the dashboard's overview.

use std::sync::Arc;

use super::{context::CallContext, management::ManagementCalls, paging::filter};
use crate::{
    domain::{
        access::Manager,
        caller::Caller,
        clock::{Clock, Micros, SECOND},
        error::Result,
        verdict::VerdictCode,
    },
    store::{
        ReplicaRow, Store,
        events::Outbox,
        keys::{CountQuery, KeyCounts},
    },
    telemetry::Metrics,
};

/// The most keys that are counted: the newest ones.
pub const MAX_COUNTED: u32 = 100_000;
/// The days that the charts show.
pub const DAYS: i64 = 30;
/// One day.
const DAY: Micros = 86_400 * SECOND;

/// Counts keys, and reads the state of the installation.
pub struct Overview {
    pub(super) store: Arc<dyn Store>,
    pub(super) calls: Arc<ManagementCalls>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
}

/// The overview as one caller may see it.
#[derive(Debug, Clone)]
pub struct OverviewNumbers {
    /// Keys by status, and created and revoked by day.
    pub keys: KeyCounts,
    /// Today, in days since the Unix epoch. The charts end here.
    pub today: i64,
    /// What only operators see.
    pub installation: Option<Installation>,
}

/// The state of the installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Verdicts by code since this replica started.
    pub verdicts: Vec<(VerdictCode, u64)>,
    /// The replicas that may answer from memory; empty where one process owns the database.
    pub replicas: Vec<ReplicaRow>,
    /// Deliveries of webhooks that wait.
    pub outbox: Outbox,
}

impl Overview {
    /// The numbers of the keys that the caller may list, of one organization if it names one.
    ///
    /// # Errors
    ///
    /// PERMISSION_DENIED; INVALID_ARGUMENT where an organization must be named; UNAVAILABLE; DEADLINE_EXCEEDED.
    pub async fn read(&self, caller: &Caller, organization: &str, context: CallContext<'_>) -> Result<OverviewNumbers> {
        let (manager, mut call) = self.calls.begin(caller)?;
        let mut binding = [filter(organization.to_owned()), None, None];
        manager.restrict_filter(&mut binding)?;
        let [organization, instance, environment] = binding;
        // An organization's name means something in the caller's own keyspaces only.
        let keyspaces: Vec<Option<String>> = match manager {
            Manager::Operator => vec![None],
            Manager::Admin(admin) => vec![Some(admin.keyspace.name.clone())],
            Manager::Session(session) => session.keyspaces.iter().cloned().map(Some).collect(),
        };
        let now = self.clock.wall();
        let today = now.div_euclid(DAY);
        let since = (today - DAYS + 1) * DAY;
        let query = CountQuery { keyspace: None, organization, instance, environment, now, since, limit: MAX_COUNTED };
        call.acquire_page_permit(context).await?;
        let mut keys = KeyCounts::default();
        for keyspace in keyspaces {
            let counted = self.store.count_keys(CountQuery { keyspace, ..query.clone() });
            keys.add(context.bounded(counted).await?);
        }
        let installation = match manager {
            Manager::Operator => Some(Installation {
                verdicts: self.metrics.verdict_totals(),
                replicas: context.bounded(self.store.replicas()).await?,
                outbox: context.bounded(self.store.outbox()).await?,
            }),
            Manager::Admin(_) | Manager::Session(_) => None,
        };
        Ok(OverviewNumbers { keys, today, installation })
    }
}
