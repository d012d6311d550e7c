use http_body_util::BodyExt as _;

use super::*;

#[tokio::test]
async fn the_answer_is_kube_proxys() {
    for (here, code) in [(2, 200), (0, 503)] {
        let response = answer(&("d/web".to_owned(), here));
        assert_eq!(response.status(), code);
        assert_eq!(response.headers()["x-load-balancing-endpoint-weight"], here.to_string());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let service = serde_json::json!({"namespace": "d", "name": "web"});
        assert_eq!(said, serde_json::json!({"service": service, "localEndpoints": here, "serviceProxyHealthy": true}));
    }
}
