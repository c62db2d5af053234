//! Gathers what many ask for at once into few statements.

use std::sync::Arc;

use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
};

/// A question, and where its answer goes.
pub type Asked<Q, A> = (Q, oneshot::Sender<A>);

/// How much is gathered.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Questions that wait for a statement, at most; more are refused at once.
    pub waiting: usize,
    /// Statements under way at once.
    pub statements: usize,
    /// Questions in one statement, at most.
    pub together: usize,
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unasked {
    /// Too many wait.
    Full,
    /// The statement's task ended before it answered.
    GivenUp,
}

/// Puts questions together. Each is answered by a statement that is sent after it was asked.
pub struct Gather<Q, A> {
    queue: mpsc::Sender<Asked<Q, A>>,
}

impl<Q: Send + 'static, A: Send + 'static> Gather<Q, A> {
    /// Starts gathering on `runtime`; `ask` asks what was gathered, in a task of its own. It ends when this is dropped.
    pub fn start<W, F>(bounds: Bounds, runtime: &Handle, ask: W) -> Self
    where
        W: Fn(Vec<Asked<Q, A>>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(bounds.waiting);
        runtime.spawn(gather(bounds, waiting, ask));
        Self { queue }
    }

    /// Asks with others. Whoever stops waiting does not stop the statement.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub async fn ask(&self, question: Q) -> Result<A, Unasked> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send((question, reply)).map_err(|_| Unasked::Full)?;
        answer.await.map_err(|_| Unasked::GivenUp)
    }
}

async fn gather<Q, A, W, F>(bounds: Bounds, mut waiting: mpsc::Receiver<Asked<Q, A>>, ask: W)
where
    Q: Send + 'static,
    A: Send + 'static,
    W: Fn(Vec<Asked<Q, A>>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(bounds.statements));
    // The slot comes first: what arrives while every slot is taken gathers in the queue.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let mut asked = Vec::new();
        if waiting.recv_many(&mut asked, bounds.together).await == 0 {
            return;
        }
        let statement = ask(asked);
        tokio::spawn(async move {
            statement.await;
            drop(slot);
        });
    }
}
