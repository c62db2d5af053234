//! The faults of clients and of their replicas.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use keyward::proto::RevokeRequest;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{CLIENTS, Client, REPLICAS, Storm, millis};
use crate::{
    client_process::monotonic,
    proxy::Proxy,
    support::server::{ROOT, with},
};

impl Storm {
    /// Injects faults into clients until `end`, one at a time.
    pub(super) async fn disturb_clients(self: Arc<Self>, seed: u64, end: Instant) {
        let mut random = StdRng::seed_from_u64(seed);
        while Instant::now() < end {
            let client = &self.clients[random.random_range(0..CLIENTS)];
            let Ok(_held) = client.disturbed.try_lock() else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.disturb_client(client, &mut random).await;
            sleep(millis(&mut random, 20, 500)).await;
        }
    }

    async fn disturb_client(&self, client: &Client, random: &mut StdRng) {
        let signal = |signal| {
            if let Some(process) = &*client.process.lock().unwrap() {
                process.signal(signal);
            }
        };
        let all = |act: &dyn Fn(&Proxy)| client.proxies.iter().for_each(act);
        match random.random_range(0..14) {
            0..=2 => {
                // Half of these last longer than the longest lease and its margin.
                self.fault("client stopped");
                signal(Signal::STOP);
                sleep(millis(random, 20, 3_000)).await;
                signal(Signal::CONT);
            }
            3 | 4 => {
                self.fault("client killed");
                client.process.lock().unwrap().take();
                sleep(millis(random, 0, 500)).await;
                self.start(client).await;
            }
            5 => {
                self.fault("client disconnected");
                for _ in 0..random.random_range(1..6) {
                    all(&|proxy| proxy.reset());
                    sleep(millis(random, 0, 250)).await;
                }
            }
            6 | 7 => {
                self.fault("client black-holed");
                all(&|proxy| proxy.silence(true));
                sleep(millis(random, 100, 3_000)).await;
                // What was held back arrives late, unless its connection is reset first.
                if random.random_bool(0.5) {
                    all(&|proxy| proxy.reset());
                }
                all(&|proxy| proxy.silence(false));
            }
            8 => {
                self.fault("client stopped and black-holed");
                all(&|proxy| proxy.silence(true));
                signal(Signal::STOP);
                sleep(millis(random, 100, 2_000)).await;
                all(&|proxy| proxy.silence(false));
                sleep(millis(random, 0, 500)).await;
                signal(Signal::CONT);
            }
            9 => {
                self.fault("answers to client delayed");
                let delay = millis(random, 5, 700);
                all(&|proxy| proxy.delay_replies(delay));
                sleep(millis(random, 300, 2_000)).await;
                all(&|proxy| proxy.delay_replies(Duration::ZERO));
            }
            10 | 11 => {
                // One way is left: it moves to that replica.
                self.fault("client moved");
                let stays = random.random_range(0..REPLICAS);
                let others = || client.proxies.iter().enumerate().filter(|(replica, _)| *replica != stays);
                others().for_each(|(_, proxy)| proxy.down(true));
                sleep(millis(random, 200, 1_500)).await;
                others().for_each(|(_, proxy)| proxy.down(false));
            }
            12 => {
                self.fault("client left in good order");
                let process = client.process.lock().unwrap().take();
                if let Some(process) = process {
                    tokio::task::block_in_place(|| assert!(process.stop(), "a client does not stop"));
                }
                self.start(client).await;
            }
            _ => {
                self.fault("client's credential revoked");
                self.revoke_credential(client, random).await;
                self.start(client).await;
            }
        }
    }

    /// Revokes the credential of a client. From then on it answers nothing at all from its memory.
    async fn revoke_credential(&self, client: &Client, random: &mut StdRng) {
        let id = client.credential.lock().unwrap().clone();
        loop {
            let mut request = with(ROOT, RevokeRequest { id: id.clone(), reason: String::new() });
            request.set_timeout(Duration::from_secs(8));
            let answer = self.any_replica(random).revoke(request).await;
            let returned = monotonic();
            if answer.is_ok() {
                let mut found = self.found.lock().unwrap();
                let of_client = found.iter_mut().rev().find(|found| found.client == client.number);
                of_client.expect("it was started").credential_revoked = Some(returned);
                break;
            }
            if self.is_over() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        sleep(millis(random, 100, 800)).await;
        client.process.lock().unwrap().take();
    }

    /// Injects faults into replicas until `end`, one at a time.
    pub(super) async fn disturb_replicas(self: Arc<Self>, seed: u64, end: Instant) {
        let mut random = StdRng::seed_from_u64(seed);
        while Instant::now() < end {
            let number = random.random_range(0..REPLICAS);
            let _held = self.disturbed[number].lock().await;
            self.disturb_replica(number, &mut random).await;
            sleep(millis(&mut random, 100, 1_200)).await;
        }
    }

    async fn disturb_replica(&self, number: usize, random: &mut StdRng) {
        let replica = &self.replicas[number];
        match random.random_range(0..8) {
            0 | 1 => {
                self.fault("replica paused");
                replica.signal("STOP");
                sleep(millis(random, 50, 2_500)).await;
                replica.signal("CONT");
            }
            2 | 3 => {
                self.fault("replica killed");
                replica.kill();
                sleep(millis(random, 0, 1_500)).await;
                self.revive(number).await;
            }
            4 | 5 => {
                self.fault("replica drained");
                replica.stop();
                self.revive(number).await;
            }
            6 => {
                self.fault("replica without its database");
                replica.proxy.silence(true);
                sleep(millis(random, 300, 2_500)).await;
                replica.reconnect();
            }
            _ => {
                self.fault("replica's connections reset");
                for _ in 0..random.random_range(1..5) {
                    replica.proxy.reset();
                    sleep(millis(random, 0, 250)).await;
                }
            }
        }
    }

    async fn revive(&self, number: usize) {
        let mut last = String::new();
        for _ in 0..5 {
            match self.replicas[number].revive() {
                Ok(()) => {
                    self.lead_to(number);
                    return;
                }
                Err(log) => last = log,
            }
            sleep(Duration::from_millis(200)).await;
        }
        panic!("replica {number} does not start:\n{last}");
    }

    /// Leads the clients' ways to the process that a replica has now.
    fn lead_to(&self, number: usize) {
        let address: SocketAddr = self.replicas[number].server(|server| server.grpc.parse()).expect("an address");
        self.clients.iter().for_each(|client| client.proxies[number].redirect(address));
    }
}
