//! Gathers what many ask for at once into few statements.

use std::{
    sync::Arc,
    thread::{self, ThreadId},
};

use tokio::{
    runtime::Handle,
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
};

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
    queue: mpsc::Sender<(Q, Asker<A>)>,
}

/// Whoever waits for an answer.
struct Asker<A> {
    reply: oneshot::Sender<A>,
    /// Where it waits.
    thread: ThreadId,
    runtime: Handle,
}

impl<Q: Send + 'static, A: Send + 'static> Gather<Q, A> {
    /// Starts gathering on `runtime`; `ask` asks what was gathered, in a task of its own, and gives the answers in the
    /// order of the questions. It ends when this is dropped.
    pub fn start<W, F>(bounds: Bounds, runtime: &Handle, ask: W) -> Self
    where
        W: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
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
        let asker = Asker { reply, thread: thread::current().id(), runtime: Handle::current() };
        self.queue.try_send((question, asker)).map_err(|refused| match refused {
            TrySendError::Full(_) => Unasked::Full,
            TrySendError::Closed(_) => Unasked::GivenUp,
        })?;
        answer.await.map_err(|_| Unasked::GivenUp)
    }
}

async fn gather<Q, A, W, F>(bounds: Bounds, mut waiting: mpsc::Receiver<(Q, Asker<A>)>, ask: W)
where
    Q: Send + 'static,
    A: Send + 'static,
    W: Fn(Vec<Q>) -> F + Send + 'static,
    F: Future<Output = Vec<A>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(bounds.statements));
    // The slot comes first: what arrives while every slot is taken gathers in the queue.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let mut asked = Vec::with_capacity(waiting.len().clamp(1, bounds.together));
        if waiting.recv_many(&mut asked, bounds.together).await == 0 {
            return;
        }
        let (questions, askers): (Vec<Q>, Vec<Asker<A>>) = asked.into_iter().unzip();
        let statement = ask(questions);
        tokio::spawn(async move {
            let answers = statement.await;
            drop(slot);
            answer(askers.into_iter().zip(answers));
        });
    }
}

/// Answers on the threads where the askers wait: to wake a thread costs as much as to answer, and so it is done once for
/// all of its askers.
fn answer<A: Send + 'static>(answers: impl Iterator<Item = (Asker<A>, A)>) {
    type Waiting<A> = Vec<(oneshot::Sender<A>, A)>;
    let mut threads: Vec<(ThreadId, Handle, Waiting<A>)> = Vec::new();
    for (Asker { reply, thread, runtime }, answer) in answers {
        match threads.iter_mut().find(|(known, ..)| *known == thread) {
            Some((.., waiting)) => waiting.push((reply, answer)),
            None => threads.push((thread, runtime, vec![(reply, answer)])),
        }
    }
    for (_, runtime, waiting) in threads {
        let tell = move || {
            for (reply, answer) in waiting {
                // Whoever has stopped waiting needs none.
                let _ = reply.send(answer);
            }
        };
        runtime.spawn(async move { tell() });
    }
}
