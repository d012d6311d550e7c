//! Objects of any kind by their metadata alone, and plain JSON: for those who work on all kinds, as the garbage
//! collector and the namespace controller.

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use schema::api::Message;
use schema::api::meta::v1::{ObjectMeta, PartialObjectMetadata, PartialObjectMetadataList};
use serde_json::Value as Json;

use super::client::{build, collect};
use super::{Client, Error, Frames};
use crate::plan::DeleteOptions;

const ONE: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const LIST: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const WATCH: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1;stream=watch";

/// One page of a list.
pub struct Page {
    pub items: Vec<ObjectMeta>,
    pub resource_version: String,
    /// Empty on the last page.
    pub next: String,
    /// How many follow, if the server says.
    pub remaining: u64,
}

impl Client {
    /// GET of a document in a JSON form, such as discovery's.
    pub async fn json(&self, path: String, accept: &'static str) -> Result<Json, Error> {
        let mut request = build(Method::GET, path.clone(), None, Bytes::new());
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        let body = self.send(request).await?.into_body();
        let body = collect(body, super::client::MAX_ANSWER_BYTES).await.map_err(|source| Error::Transport {
            method: "GET",
            path: path.clone(),
            source,
        })?;
        serde_json::from_slice(&body).map_err(|_| Error::Decode { path, expected: "JSON document" })
    }

    /// The metadata of the object at `path`.
    pub async fn metadata(&self, path: String) -> Result<ObjectMeta, Error> {
        self.partial(Method::GET, path, None, Bytes::new()).await
    }

    /// A JSON merge patch of the object at `path`.
    pub async fn merge_metadata(&self, path: String, patch: &Json) -> Result<ObjectMeta, Error> {
        self.partial(Method::PATCH, path, Some("application/merge-patch+json"), patch.to_string().into()).await
    }

    async fn partial(
        &self,
        method: Method,
        path: String,
        content: Option<&'static str>,
        body: Bytes,
    ) -> Result<ObjectMeta, Error> {
        let mut request = build(method, path.clone(), content, body);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(ONE));
        let raw = self.request_raw(request).await?;
        PartialObjectMetadata::decode(&raw)
            .map(|object| object.metadata)
            .map_err(|_| Error::Decode { path, expected: "PartialObjectMetadata" })
    }

    /// A page of at most `limit` objects after `from`, the `next` of the page before.
    pub async fn metadata_page(&self, path: &str, limit: usize, from: &str) -> Result<Page, Error> {
        let from = if from.is_empty() { String::new() } else { format!("&continue={}", escape(from)) };
        let path = format!("{path}?limit={limit}{from}");
        let mut request = build(Method::GET, path.clone(), None, Bytes::new());
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(LIST));
        let raw = self.request_raw(request).await?;
        let list = PartialObjectMetadataList::decode(&raw)
            .map_err(|_| Error::Decode { path, expected: "PartialObjectMetadataList" })?;
        Ok(Page {
            items: list.items.into_iter().map(|item| item.metadata).collect(),
            resource_version: list.metadata.resource_version,
            next: list.metadata.r#continue,
            remaining: list.metadata.remaining_item_count.and_then(|count| count.try_into().ok()).unwrap_or(0),
        })
    }

    /// A watch whose events carry `PartialObjectMetadata` ([`super::reflector::metadata_of`] reads them).
    pub async fn watch_metadata(&self, path: &str, resource_version: &str) -> Result<Frames, Error> {
        self.watch_as(path.to_owned(), "", resource_version, WATCH).await
    }

    /// DELETE of an object or a collection by its path.
    pub async fn delete_at(&self, path: String, uid: &str, options: &DeleteOptions) -> Result<(), Error> {
        let body = super::client::delete_body(uid, options);
        let mut request = build(Method::DELETE, path.clone(), Some("application/json"), body);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let body = self.send(request).await?.into_body();
        collect(body, super::client::MAX_ANSWER_BYTES).await.map(drop).map_err(|source| Error::Transport {
            method: "DELETE",
            path,
            source,
        })
    }
}

/// What a query parameter may not hold plainly; a continue token is base64.
fn escape(token: &str) -> String {
    token.replace('%', "%25").replace('+', "%2B").replace('&', "%26").replace('=', "%3D").replace('/', "%2F")
}
