//! The receivers of docs/webhooks.md, run as they are printed there, accept every delivery.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    fixture::{hooked, patch, revoke, server},
    receiver::{Receiver, Request},
};

/// What `tests/run` installed from PyPI and npm.
fn receivers() -> PathBuf {
    std::env::var_os("KEYWARD_TEST_RECEIVERS")
        .expect("KEYWARD_TEST_RECEIVERS is not set: run the tests with tests/run, which installs what they need")
        .into()
}

/// The code of a language in the documentation.
fn printed(language: &str) -> &'static str {
    let text = include_str!("../../docs/webhooks.md");
    let begin = text.find(&format!("```{language}\n")).unwrap() + language.len() + 4;
    &text[begin..begin + text[begin..].find("```").unwrap()]
}

/// Deliveries that were received: signed by a secret, then by that and a newer one.
async fn received() -> (Vec<Request>, String, String) {
    let receiver = Receiver::good().await;
    let server = server("[]");
    let key = hooked(&server, &receiver.url("/é?ü")).await;
    receiver.wait_for(1).await;
    let body = json!({"webhook": receiver.url("/"), "rotateSecret": true});
    let newer = patch(&server, &key.id, body).await["webhookSecret"].as_str().unwrap().to_owned();
    receiver.wait_for(2).await;
    revoke(&server, &key.id).await;
    (receiver.wait_for(3).await, key.secret, newer)
}

fn input(requests: &[Request], secret: &str) -> Value {
    let one = |request: &Request| {
        let headers: serde_json::Map<_, _> =
            request.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap()))).collect();
        json!({"headers": headers, "body": String::from_utf8(request.body.clone()).unwrap()})
    };
    json!({"secret": secret, "requests": requests.iter().map(one).collect::<Vec<_>>()})
}

/// Runs a receiver. Returns what it prints for each delivery: the event's type, or the error.
fn run(mut command: Command, input: &Value) -> Vec<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the language is installed");
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn python(input: &Value) -> Vec<String> {
    let code = format!(
        "{}\nimport json, sys\ngiven = json.load(sys.stdin)\nfor one in given['requests']:\n    try:\n        \
         print(receive(given['secret'], one['headers'], one['body'].encode())['type'])\n    \
         except Exception as error:\n        print(type(error).__name__)\n",
        printed("python")
    );
    let mut command = Command::new(receivers().join("bin/python"));
    command.args(["-c", &code]);
    run(command, input)
}

fn javascript(input: &Value) -> Vec<String> {
    let code = format!(
        "{}\nconst given = JSON.parse(await new Response(process.stdin).text());\nfor (const one of given.requests) {{\n  \
         try {{ console.log(receive(given.secret, one.headers, one.body).type); }}\n  \
         catch (error) {{ console.log(error.constructor.name); }}\n}}\n",
        printed("js")
    );
    let file = tempfile::Builder::new().suffix(".mjs").tempfile_in(receivers()).unwrap();
    std::fs::write(file.path(), code).unwrap();
    let mut command = Command::new("node");
    command.arg(file.path());
    run(command, input)
}

#[tokio::test]
async fn the_documented_receivers_accept_every_delivery_and_nothing_else() {
    let (requests, secret, newer) = received().await;
    let kinds = ["key.created", "webhook.updated", "key.revoked"];
    let refused = ["WebhookVerificationError"; 3];
    let mut changed = requests.clone();
    for request in &mut changed {
        let text = String::from_utf8(request.body.clone()).unwrap();
        request.body = text.replace("\"name\":\"hooked\"", "\"name\":\"forged\"").into_bytes();
        assert_ne!(text.as_bytes(), request.body);
    }
    for receive in [python, javascript] {
        assert_eq!(receive(&input(&requests, &secret)), kinds);
        assert_eq!(receive(&input(&requests[1..], &newer)), kinds[1..], "those after the rotation");
        assert_eq!(receive(&input(&changed, &secret)), refused);
        assert_eq!(receive(&input(&requests, "whsec_bm90IHRoZSBzZWNyZXQ=")), refused);
    }
    assert!(requests.iter().all(|request| documented::receive(&secret, &request.headers, &request.body).is_ok()));
    assert!(changed.iter().all(|request| documented::receive(&secret, &request.headers, &request.body).is_err()));
}

/// The lines of the documentation.
mod documented {
    pub fn receive(secret: &str, headers: &http::HeaderMap, body: &[u8]) -> Result<(), standardwebhooks::WebhookError> {
        standardwebhooks::Webhook::new(secret)?.verify(body, headers)
    }
}
