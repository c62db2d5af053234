//! The text of `/metrics`. It needs no credential, and rendering it takes far longer than sending it, so renderings are
//! limited.

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

/// How often the text is made within one [`INTERVAL`]. Further scrapes in that interval get the last text.
const MAX_RENDERS: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(1);

/// The last text, and how often it was rendered in this interval.
pub(crate) struct MetricsText(Mutex<Rendered>);

struct Rendered {
    text: Bytes,
    since: Instant,
    renders: u32,
}

impl MetricsText {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Rendered { text: Bytes::new(), since: Instant::now(), renders: 0 }))
    }

    /// Returns a new text, or the last one if this interval has reached its limit.
    pub(crate) fn get(&self, now: Instant, render: impl FnOnce() -> String) -> Bytes {
        let mut last = self.0.lock();
        if now.duration_since(last.since) >= INTERVAL {
            (last.since, last.renders) = (now, 0);
        }
        if last.renders < MAX_RENDERS {
            last.renders += 1;
            last.text = render().into();
        }
        last.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_made_a_bounded_number_of_times_in_each_second() {
        let (text, start) = (MetricsText::new(), Instant::now());
        let mut made = 0;
        let mut get = |now| {
            let seen = text.get(now, || {
                made += 1;
                made.to_string()
            });
            (seen, made)
        };
        assert_eq!(get(start), ("1".into(), 1));
        for _ in 0..1_000 {
            get(start + INTERVAL / 2);
        }
        assert_eq!(get(start + INTERVAL / 2), ("10".into(), 10));
        assert_eq!(get(start + INTERVAL * 2), ("11".into(), 11));
    }
}
