//! The signing secret and its rotation.

use keyward::proto::UpdateWebhookRequest;
use serde_json::json;

use super::{
    fixture::{hooked, patch, revoke, server},
    receiver::Receiver,
};
use crate::support::{
    Setup, reply,
    server::{ROOT, with},
};

#[tokio::test]
async fn a_rotation_returns_a_new_secret_and_both_sign_for_a_day() {
    let receiver = Receiver::good().await;
    let server = server("[]");
    let key = hooked(&server, &receiver.url("/")).await;
    assert_eq!(receiver.wait_for(1).await[0].header("webhook-signature").split(' ').count(), 1);
    let rotate = json!({"webhook": receiver.url("/"), "rotateSecret": true});
    let second = patch(&server, &key.id, rotate.clone()).await["webhookSecret"].as_str().unwrap().to_owned();
    assert!(second.starts_with("whsec_") && second != key.secret);
    let delivery = receiver.wait_for(2).await.pop().unwrap();
    assert_eq!(delivery.header("webhook-signature").split(' ').count(), 2);
    assert!(delivery.is_by(&key.secret) && delivery.is_by(&second));
    // Receivers knew rotations by this type before the audit log had one for them.
    assert_eq!(delivery.kind(), "webhook.updated");
    // A new URL alone changes no secret.
    let plain = patch(&server, &key.id, json!({"webhook": receiver.url("/other")})).await;
    assert!(plain.get("webhookSecret").is_none());
    let delivery = receiver.wait_for(3).await.pop().unwrap();
    assert!(delivery.is_by(&key.secret) && delivery.is_by(&second));
    // Rotated again, as by a caller that lost the response: each of the three secrets verifies deliveries.
    let third = patch(&server, &key.id, rotate).await["webhookSecret"].as_str().unwrap().to_owned();
    let delivery = receiver.wait_for(4).await.pop().unwrap();
    assert!(delivery.is_by(&key.secret) && delivery.is_by(&second) && delivery.is_by(&third));
    revoke(&server, &key.id).await;
    let delivery = receiver.wait_for(5).await.pop().unwrap();
    assert!(delivery.is_by(&key.secret) && delivery.is_by(&second) && delivery.is_by(&third));
}

#[tokio::test]
async fn a_first_url_with_a_rotation_has_one_secret() {
    let receiver = Receiver::good().await;
    let server = server("[]");
    let made = server.create(json!({"name": "n"})).await;
    let body = json!({"webhook": receiver.url("/"), "rotateSecret": true});
    let set = patch(&server, made["id"].as_str().unwrap(), body).await;
    let delivery = receiver.wait_for(1).await.pop().unwrap();
    assert_eq!(delivery.header("webhook-signature").split(' ').count(), 1);
    assert!(delivery.is_by(set["webhookSecret"].as_str().unwrap()));
}

#[tokio::test]
async fn a_secret_is_rotated_by_grpc_and_by_the_key_itself() {
    let receiver = Receiver::good().await;
    let noro = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/noro.toml")).unwrap();
    let server = Setup::new().config(&noro).and(&super::fixture::local("[]")).delivering().start();
    let made = reply(server.rest("POST", "/api/v1/keys").json(&json!({"webhook": receiver.url("/")}))).await.good(201);
    let (key, first) = (made["key"].as_str().unwrap(), made["webhookSecret"].as_str().unwrap());
    let own = json!({"webhook": receiver.url("/"), "rotateSecret": true});
    let own = reply(server.rest("PATCH", "/api/v1/keys").bearer_auth(key).json(&own)).await.good(200);
    let second = own["webhookSecret"].as_str().unwrap();
    let request = UpdateWebhookRequest {
        id: made["id"].as_str().unwrap().into(),
        webhook_url: receiver.url("/"),
        rotate_secret: true,
    };
    let third = server.client().await.update_webhook(with(ROOT, request)).await.unwrap().into_inner().webhook_secret;
    let delivery = receiver.wait_for(3).await.pop().unwrap();
    assert!(delivery.is_by(first) && delivery.is_by(second) && delivery.is_by(&third));
    // Each of them is in the audit log as a rotation, with who made it.
    let path = format!("/api/events?keyId={}&type=webhook.rotated", made["id"].as_str().unwrap());
    let page = reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
    let actors: Vec<&str> = page["events"].as_array().unwrap().iter().filter_map(|one| one["actor"].as_str()).collect();
    assert_eq!(actors, ["root", &format!("key:{}", made["id"].as_str().unwrap())]);
}

#[tokio::test]
async fn a_rotation_without_a_webhook_is_refused() {
    let server = Setup::new().start();
    let made = server.create(json!({"name": "n", "webhook": "https://example.com/"})).await;
    let path = format!("/api/api-keys/{}", made["id"].as_str().unwrap());
    for body in [
        json!({"webhook": "", "rotateSecret": true}),
        json!({"webhook": "https://example.com/", "rotateSecret": "yes"}),
    ] {
        reply(server.rest("PATCH", &path).bearer_auth(ROOT).json(&body)).await.bad(&["rotateSecret"]);
    }
    let item = reply(server.rest("GET", &path).bearer_auth(ROOT)).await.good(200);
    assert_eq!(item["webhook"], "https://example.com/");
    for body in [
        json!({"webhook": "https://example.com/", "rotateSecret": false}),
        json!({"webhook": "https://example.com/", "rotateSecret": null}),
    ] {
        let plain = reply(server.rest("PATCH", &path).bearer_auth(ROOT).json(&body)).await.good(200);
        assert!(plain.get("webhookSecret").is_none());
    }
}
