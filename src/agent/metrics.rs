//! What an agent counts, and its text for Prometheus.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use keyward_client::AttachStatus;
use tonic::{Code, Status};

/// A call that an agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Verify,
    VerifyStream,
    Check,
}

impl Call {
    const ALL: [Self; 3] = [Self::Verify, Self::VerifyStream, Self::Check];

    fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::VerifyStream => "verify_stream",
            Self::Check => "check",
        }
    }
}

/// Who decided a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Memory,
    Replica,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// By call.
    memory: [AtomicU64; 3],
    replica: [AtomicU64; 3],
    undecided: [AtomicU64; 3],
    refused: [AtomicU64; 3],
    serving: AtomicBool,
}

impl Counters {
    /// Counts an answer.
    pub(super) fn answered(&self, call: Call, source: Source) {
        let counters = match source {
            Source::Memory => &self.memory,
            Source::Replica => &self.replica,
        };
        counters[call as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call without an answer.
    pub(super) fn failed(&self, call: Call, status: &Status) {
        let undecided = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
        let counters = if undecided { &self.undecided } else { &self.refused };
        counters[call as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    pub(super) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// The text that Prometheus reads.
    pub(super) fn text(&self, attached: Option<AttachStatus>) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let read = |counters: &[AtomicU64; 3], call: Call| counters[call as usize].load(Ordering::Relaxed);
        let answers = Call::ALL.iter().flat_map(|&call| {
            [("memory", &self.memory), ("replica", &self.replica)].map(|(source, counters)| {
                (format!("{{call=\"{}\",source=\"{source}\"}}", call.name()), read(counters, call))
            })
        });
        let help = "Answers, by call and by who decided: this process's memory, or a replica by a call.";
        family("keyward_agent_answers_total", "counter", help, &answers.collect::<Vec<_>>());
        let by_call = |counters| Call::ALL.map(|call| (format!("{{call=\"{}\"}}", call.name()), read(counters, call)));
        let help = "Calls that no replica could decide in time, by call.";
        family("keyward_agent_undecided_total", "counter", help, &by_call(&self.undecided));
        let help = "Calls that were refused, such as those of callers without a valid credential, by call.";
        family("keyward_agent_refused_total", "counter", help, &by_call(&self.refused));
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            family(name, kind, help, &[(String::new(), value)]);
        };
        let live = attached.is_some_and(|status| status.live);
        let (keys, bytes) = attached.map_or((0, 0), |status| (status.keys as u64, status.bytes as u64));
        let without_lease = attached.map_or(0, |status| status.calls_without_lease);
        let help = "Whether memory may answer: whether a lease is live. An agent that nobody asks lets it end.";
        one("keyward_agent_lease_live", "gauge", help, u64::from(live));
        let help = "Whether health answers SERVING: a lease is live, or a replica can be called.";
        one("keyward_agent_serving", "gauge", help, u64::from(self.is_serving()));
        one("keyward_agent_keys", "gauge", "Keys in memory.", keys);
        one("keyward_agent_memory_bytes", "gauge", "Bytes that the keys in memory take.", bytes);
        let help = "Looks into memory without a live lease; each became a call.";
        one("keyward_agent_without_lease_total", "counter", help, without_lease);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_counted_apart() {
        let counters = Counters::default();
        counters.answered(Call::Verify, Source::Memory);
        counters.answered(Call::Check, Source::Replica);
        counters.failed(Call::VerifyStream, &Status::unavailable(""));
        counters.failed(Call::Verify, &Status::unauthenticated(""));
        let text = counters.text(None);
        for line in [
            "keyward_agent_answers_total{call=\"verify\",source=\"memory\"} 1",
            "keyward_agent_answers_total{call=\"verify\",source=\"replica\"} 0",
            "keyward_agent_answers_total{call=\"check\",source=\"replica\"} 1",
            "keyward_agent_undecided_total{call=\"verify_stream\"} 1",
            "keyward_agent_refused_total{call=\"verify\"} 1",
            "keyward_agent_lease_live 0",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in\n{text}");
        }
    }
}
