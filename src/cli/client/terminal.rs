//! Prompts. A prompt changes the terminal's mode; Ctrl-C has to leave the terminal as it was.

use console::Term;
use dialoguer::{Confirm, Select, theme::ColorfulTheme, theme::SimpleTheme, theme::Theme};

use super::{
    failure::{Failure, Result},
    screen::Screen,
};

/// The mode of the terminal before any prompt, to restore.
pub struct TerminalMode {
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl TerminalMode {
    /// Saves the mode of the terminal.
    pub fn save() -> Self {
        Self {
            #[cfg(unix)]
            before: rustix::termios::tcgetattr(std::io::stdin()).ok(),
        }
    }

    /// Restores it, with a visible cursor.
    pub fn restore(&self) {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            use rustix::termios::{OptionalActions, tcsetattr};
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
            let error = Term::stderr();
            if error.is_term() {
                let _ = error.show_cursor();
            }
        }
    }
}

/// Asks for a yes or a no.
///
/// # Errors
///
/// Prompts are not possible, or the answer is no.
pub async fn confirm(screen: &Screen, question: &str) -> Result {
    if !screen.can_ask {
        return Err(Failure::usage(format_args!("{question} Say --yes: nobody can be asked here")));
    }
    let question = question.to_owned();
    let prompt =
        move |theme: &dyn Theme| Confirm::with_theme(theme).with_prompt(question).default(false).interact_opt();
    match run_prompt(prompt).await {
        Ok(Some(true)) => Ok(()),
        Ok(_) => Err(Failure::cancelled()),
        Err(failure) => {
            // The cursor is still behind the question.
            eprintln!();
            Err(failure)
        }
    }
}

/// Asks for one of several; the answer is its index.
///
/// # Errors
///
/// Nobody answered.
pub async fn select(question: &str, items: Vec<String>, default: usize) -> Result<usize> {
    let question = question.to_owned();
    run_prompt(move |theme| {
        let select = Select::with_theme(theme).with_prompt(question).items(&items).default(default).report(false);
        select.interact_opt()
    })
    .await?
    .ok_or_else(Failure::cancelled)
}

/// Asks for a secret, which is not shown.
///
/// # Errors
///
/// Nobody answered.
pub async fn secret(question: &str) -> Result<String> {
    let question = question.to_owned();
    run_prompt(move |_| {
        let term = Term::stderr();
        term.write_str(&question)?;
        Ok(term.read_secure_line()?)
    })
    .await
}

/// Runs a prompt on a thread of its own, so that Ctrl-C is noticed meanwhile.
async fn run_prompt<T: Send + 'static>(
    prompt: impl FnOnce(&dyn Theme) -> std::result::Result<T, dialoguer::Error> + Send + 'static,
) -> Result<T> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let answer =
        tokio::task::spawn_blocking(
            move || {
                if plain { prompt(&SimpleTheme) } else { prompt(&ColorfulTheme::default()) }
            },
        );
    match answer.await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(Failure::cancelled()),
    }
}
