//! Tokens that somebody outside knows: `--authentication-token-webhook-config-file`.

use std::time::Duration;

use schema::Value;

use crate::outside::{Endpoint, Remembered};
use crate::seams::Reviewed;
use crate::{Server, User};

const ANSWER: Duration = Duration::from_secs(30);
const REMEMBERED_MAX: usize = 32 * 1024;

pub struct TokenWebhook {
    endpoint: Endpoint,
    /// `v1` or `v1beta1`.
    version: String,
    lifetime: Duration,
    /// Known tokens with their users, and unknown ones.
    answers: Remembered<Option<Reviewed>>,
}

impl TokenWebhook {
    pub fn new(endpoint: Endpoint, version: &str, lifetime: Duration) -> Self {
        Self { endpoint, version: version.into(), lifetime, answers: Remembered::new(REMEMBERED_MAX) }
    }

    /// `None`: it does not know the token. A token without audiences is for the server's `own`.
    ///
    /// # Errors
    /// It cannot be asked, or says what is wrong with the token.
    pub async fn user(
        &self,
        server: &Server,
        token: &str,
        wanted: &[String],
        own: &[String],
    ) -> Result<Option<Reviewed>, String> {
        let key = Remembered::<()>::key(std::iter::once(token).chain(wanted.iter().map(String::as_str)));
        if let Some(answer) = self.answers.get(&key) {
            return Ok(answer);
        }
        let answer = self.ask(server, token, wanted, own).await?;
        self.answers.put(key, answer.clone(), self.lifetime);
        Ok(answer)
    }

    async fn ask(
        &self,
        server: &Server,
        token: &str,
        wanted: &[String],
        own: &[String],
    ) -> Result<Option<Reviewed>, String> {
        let version = format!("authentication.k8s.io/{}", self.version);
        let review = Value::object([
            ("kind", "TokenReview".into()),
            ("apiVersion", version.as_str().into()),
            ("metadata", Value::object([("creationTimestamp", Value::Null)])),
            ("spec", Value::object([("token", token.into()), ("audiences", Value::list(wanted.to_vec()))])),
            ("status", Value::object([("user", Value::object::<&str>([]))])),
        ]);
        let answer = self.endpoint.ask(server, &review, ANSWER).await.map_err(|failure| {
            tracing::warn!(why = failure.why, "the authentication webhook does not answer");
            failure.why
        })?;
        if answer.str_at(&["kind"]) != "TokenReview" || answer.str_at(&["apiVersion"]) != version {
            return Err(format!("the authentication webhook answered with {:?}", answer.str_at(&["kind"])));
        }
        let status = &answer["status"];
        let told = status["audiences"].texts();
        let good_for = if told.is_empty() { own } else { &told };
        let good_for: Vec<String> = wanted.iter().filter(|audience| good_for.contains(audience)).cloned().collect();
        if good_for.is_empty() {
            return Ok(None);
        }
        if !status.bool_at(&["authenticated"]) {
            return match status.str_at(&["error"]) {
                "" => Ok(None),
                why => Err(why.to_owned()),
            };
        }
        Ok(Some((User::of(&status["user"], "username"), good_for)))
    }
}
