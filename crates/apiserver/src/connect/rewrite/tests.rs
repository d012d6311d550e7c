use super::*;

fn check(page: &str, want: &str) {
    let (prefix, inside, outside) = ("/p/proxy".to_owned(), "10.0.0.1:80".to_owned(), "host:6443".to_owned());
    let place = Place { prefix, inside, outside };
    assert_eq!(String::from_utf8_lossy(&place.page(page.as_bytes())), want, "{page}");
    let zipped = unzip(&zip(page.as_bytes()));
    assert_eq!(zipped.as_deref(), Some(page.as_bytes()));
}

#[test]
fn links_lead_through_the_proxy() {
    check(r#"<a href="/rewriteme">test</a>"#, r#"<a href="/p/proxy/rewriteme">test</a>"#);
    check("<IMG alt=x SRC='/a?b=c#d'/>", "<IMG alt=x SRC='/p/proxy/a?b=c#d'/>");
    check("<a href=/x>y</a>", "<a href=/p/proxy/x>y</a>");
    check(r#"<a href="http://10.0.0.1:80/x/">"#, r#"<a href="/p/proxy/x/">"#);
    check(r#"<a href="http://host:6443/x">"#, r#"<a href="/p/proxy/x">"#);
    for same in [
        r#"<a href="http://other/x">"#,
        r#"<a href="//other/x">"#,
        r##"<a href="x/y"><a href="#top"><a href="">"##,
        r#"<a href="/p/proxy/x">"#,
        r#"<p href="/x"> a < b <!-- <a href="/x"> --> <a"#,
        r#"<a title="> " href"#,
    ] {
        check(same, same);
    }
}
