//! Injects faults at random.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::Mutex, time::sleep};

use crate::{database::Database, load::Load};

/// Injects faults into one replica after another, and into the database.
pub struct Chaos {
    load: Arc<Load>,
    database: Arc<Database>,
    /// Locked while a fault is injected into the replica.
    replicas: Vec<Mutex<()>>,
}

fn millis(random: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}

impl Chaos {
    /// No fault yet.
    pub fn new(load: Arc<Load>, database: Arc<Database>) -> Self {
        let replicas = load.replicas.iter().map(|_| Mutex::default()).collect();
        Self { load, database, replicas }
    }

    /// Injects faults into replicas until `end`, one at a time.
    pub async fn disturb_replicas(self: Arc<Self>, seed: u64, end: Instant) {
        let mut random = StdRng::seed_from_u64(seed);
        while Instant::now() < end {
            let replica = random.random_range(0..self.replicas.len());
            let Ok(_held) = self.replicas[replica].try_lock() else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.disturb(replica, &mut random).await;
            sleep(millis(&mut random, 50, 1_200)).await;
        }
    }

    async fn disturb(&self, replica: usize, random: &mut StdRng) {
        let target = &self.load.replicas[replica];
        let fault = |kind| self.load.history.fault(kind);
        match random.random_range(0..12) {
            0..=2 => {
                fault("paused");
                target.signal("STOP");
                sleep(millis(random, 50, 3_000)).await;
                target.signal("CONT");
                // Verify on a connection that stayed open during the pause.
                let recent = self.load.recent();
                join_all(recent.iter().rev().take(64).map(|key| self.load.check(replica, key, Duration::from_secs(2))))
                    .await;
            }
            3 => {
                fault("connections reset");
                for _ in 0..random.random_range(1..8) {
                    target.proxy.reset();
                    sleep(millis(random, 0, 250)).await;
                }
            }
            4 | 5 => {
                fault("black-holed");
                target.proxy.silence(true);
                sleep(millis(random, 100, 3_000)).await;
                // Data that was held back arrives late, unless its connection is reset first.
                if random.random_bool(0.5) {
                    target.proxy.reset();
                }
                target.proxy.silence(false);
            }
            6 | 7 => {
                fault("replies delayed");
                target.proxy.delay_replies(millis(random, 5, 700));
                sleep(millis(random, 300, 2_000)).await;
                target.proxy.delay_replies(Duration::ZERO);
            }
            8 => {
                fault("stranded");
                target.proxy.strand_after_next_reply();
                sleep(millis(random, 300, 2_000)).await;
                target.proxy.silence(false);
            }
            9 => {
                fault("reply lost");
                target.proxy.lose_next_reply();
                sleep(millis(random, 50, 300)).await;
            }
            10 => {
                fault("killed");
                target.kill();
                sleep(millis(random, 0, 2_500)).await;
                self.revive(replica).await;
            }
            _ => {
                fault("restarted");
                target.stop();
                self.revive(replica).await;
            }
        }
    }

    /// Starts the process again, even if the database stays unavailable for a while.
    async fn revive(&self, replica: usize) {
        let mut last = String::new();
        for _ in 0..5 {
            match self.load.replicas[replica].revive() {
                Ok(()) => return,
                Err(log) => last = log,
            }
            sleep(Duration::from_millis(200)).await;
        }
        panic!("replica {replica} does not start:\n{last}");
    }

    /// Crashes Postgres from time to time until `end`.
    pub async fn disturb_database(self: Arc<Self>, seed: u64, end: Instant) {
        let mut random = StdRng::seed_from_u64(seed);
        loop {
            let next = Instant::now() + millis(&mut random, 3_000, 9_000);
            if next > end {
                return;
            }
            sleep(next - Instant::now()).await;
            self.load.history.fault("database crashed");
            let database = Arc::clone(&self.database);
            let downtime = millis(&mut random, 0, 1_500);
            tokio::task::block_in_place(|| database.crash());
            sleep(downtime).await;
            tokio::task::block_in_place(|| database.restart());
        }
    }

    /// Ends all faults.
    pub fn heal(&self) {
        for replica in &self.load.replicas {
            replica.proxy.silence(false);
            replica.proxy.delay_replies(Duration::ZERO);
        }
    }
}
