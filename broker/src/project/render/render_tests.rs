//! What a template makes, what it may not, and that no value is known to it.

use super::*;

fn known() -> std::sync::Arc<BTreeSet<FileName>> {
    let names = ["DB", "KEY", "tls.key"].map(|name| FileName::new(name).unwrap());
    names.into_iter().collect::<BTreeSet<_>>().into()
}

fn values() -> BTreeMap<FileName, Plaintext> {
    let value =
        |name: &str, value: &str| (FileName::new(name).unwrap(), Plaintext::copy_of(value.as_bytes()));
    [value("DB", "it's \"{{ KEY }}\"\n"), value("KEY", "k3y"), value("tls.key", "pem")].into()
}

fn made(template: &str) -> String {
    let pieces = pieces(template, &known()).unwrap_or_else(|problem| panic!("{template}: {problem:?}"));
    let whole = Recipe::of(pieces).render(&values()).unwrap();
    String::from_utf8(whole.bytes().to_vec()).unwrap()
}

fn refused(template: &str) -> (Option<usize>, String) {
    let problem = pieces(template, &known()).expect_err(template);
    (problem.line, problem.why)
}

#[test]
fn values_are_put_in_their_places_and_nothing_is_done_twice() {
    for (template, expected) in [
        ("a={{KEY}}\n", "a=k3y\n"),
        ("{{ DB }}", "it's \"{{ KEY }}\"\n"),
        ("{{ DB | json }}", "\"it's \\\"{{ KEY }}\\\"\\n\""),
        ("{{ DB | trim | shell }}", "'it'\\''s \"{{ KEY }}\"'"),
        ("{{ bindings[\"tls.key\"] | base64 }}", "cGVt"),
        ("{{ \"x \" ~ KEY ~ 1 }}{# nothing #}", "x k3y1"),
        (
            "{% for name in [\"DB\", \"KEY\"] %}{{ name }}={{ bindings[name] | url }}{% if not loop.last %};{% endif %}{% endfor %}",
            "DB=it%27s%20%22%7B%7B%20KEY%20%7D%7D%22%0A;KEY=k3y",
        ),
        ("{% set k = KEY %}{{ k }}{{ k | json }}", "k3y\"k3y\""),
        ("{{ \"{{ }}\" }}{{ {1: {2: \"a\"}}[1][2] ~ KEY }}{# {{ ' #}{{ \"' }}\" ~ 1 }}", "{{ }}ak3y' }}1"),
        ("{{ \"it's\" | shell }}{{ KEY }}", "'it'\\''s'k3y"),
        ("{{ KEY | base64 | json }}\n\n", "\"azN5\"\n\n"),
    ] {
        assert_eq!(made(template), expected, "{template}");
    }
}

#[test]
fn a_name_that_is_no_binding_is_told_with_its_line() {
    assert_eq!(refused("a\nb\n{{ DATABASE_URL }}"), (Some(3), "there is no binding \"DATABASE_URL\"".into()));
    assert_eq!(refused("\n{{ bindings[\"tls.crt\"] }}").1, "there is no binding \"tls.crt\"");
    assert_eq!(refused("{% set a = NONE %}{{ KEY }}").1, "there is no binding \"NONE\"");
    let (line, why) = refused("a\n{{ KEY | jsn }}");
    assert!(line == Some(2) && why.contains("jsn"), "{why}");
    let (line, why) = refused("a\n\n{{ KEY KEY }}");
    assert!(line == Some(3) && why.contains("syntax error"), "{why}");
    for bad in ["a\n{{ KEY ", "a\n{% raw %}{{ {% endraw %}", "a\n{%- raw -%}{{ KEY }}"] {
        assert_eq!(refused(bad).0, Some(2), "{bad}");
    }
}

#[test]
fn a_template_cannot_look_into_a_value() {
    for template in [
        "{% if KEY %}{{ KEY }}{% endif %}",
        "{% if KEY == \"k3y\" %}1{% endif %}{{ DB }}",
        "{% if KEY == DB %}1{% endif %}",
        "{{ KEY.length }}",
        "{{ KEY[0] }}",
        "{% for c in KEY %}{{ c }}{% endfor %}",
        "{{ \"a\" if KEY == \"x\" else \"b\" }}{{ KEY }}",
        "{{ (\"a\" ~ KEY) | json }}",
        "{{ [KEY] }}",
        "{% set k = KEY %}",
        "{{ KEY() }}",
        "{{ \"\\ufdd0\" ~ KEY }}",
        "a\u{fdd0}0\u{fdd1}{{ KEY }}",
    ] {
        refused(template);
    }
}

#[test]
fn a_template_that_never_ends_is_given_up() {
    let lists =
        "{% for a in [1,2,3,4,5,6,7,8,9,0] %}".repeat(9) + "x" + &"{% endfor %}".repeat(9) + "{{ KEY }}";
    let (_, why) = refused(&lists);
    assert!(why.contains("fuel"), "{why}");
}

/// The stack of the thread that reads a manifest is no larger than this test's: 2 MiB.
#[test]
fn k08_monstrous_templates_are_refused_at_once_or_done() {
    let clock = || std::time::Duration::from(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    for (begin, again, end) in [
        ("{{ ", "(", ""),
        ("{{ ", "[", ""),
        ("{{ ", "{1:", ""),
        ("{{ ", "not ", "1 }}{{ KEY }}"),
        ("{{ ", "-", "1 }}{{ KEY }}"),
        ("{{ KEY", ".a", " }}"),
        ("{{ KEY", "[0]", " }}"),
        ("{{ KEY", "|json", " }}"),
        ("{{ 1", "~1", " }}{{ KEY }}"),
        ("{{ 1", "**1", " }}{{ KEY }}"),
        ("{{ 1", " and 1", " }}{{ KEY }}"),
        ("{{ 1", " == 1", " }}{{ KEY }}"),
        ("{{ 1", " if 1 else 1", " }}{{ KEY }}"),
        ("{{ KEY", "()", " }}"),
        ("{{ \"a\"", " \"a\"", " }}{{ KEY }}"),
        ("", "{% if 1 %}", "{{ KEY }}"),
        ("{% if 1 %}", "{% elif 1 %}", "{% endif %}{{ KEY }}"),
        ("", "{% for a in [1] %}", "{{ KEY }}"),
        ("", "{% set a %}", "{{ KEY }}"),
        ("", "{# ", "{{ KEY }}"),
        ("", "{{ KEY }}", ""),
        ("", "{{", ""),
        ("", "{%", ""),
    ] {
        // As long as a template may be, as long as a tag may be, as many as statements may be.
        for count in [(64 << 10) / again.len(), 32_000 / again.len(), 1000 / again.len(), 255] {
            let template = format!("{begin}{}{end}", again.repeat(count));
            let started = clock();
            let _ = pieces(&template, &known());
            let took = clock() - started;
            assert!(took < std::time::Duration::from_secs(1), "{begin}{again}{end}: {took:?}");
        }
    }
}

#[test]
fn a_value_that_cannot_be_written_says_whose_and_why() {
    let recipe = Recipe::of(pieces("{{ DB }}{{ KEY | json }}", &known()).unwrap());
    assert_eq!(recipe.uses().len(), 2);
    let mut values = values();
    values.insert(FileName::new("KEY").unwrap(), Plaintext::copy_of(b"\xff"));
    let unwritable = recipe.render(&values).err().unwrap();
    assert_eq!(unwritable.binding.as_ref().map(FileName::as_str), Some("KEY"));
    assert_eq!(unwritable.why, "it is not UTF-8");
    values.insert(FileName::new("KEY").unwrap(), Plaintext::zeroed(LIMIT));
    assert!(recipe.render(&values).err().unwrap().why.contains("4 MiB"));
    values.clear();
    assert!(recipe.render(&values).is_err());
}

#[test]
fn large_values_are_exact() {
    let mut values = values();
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    values.insert(FileName::new("KEY").unwrap(), Plaintext::copy_of(&large));
    let recipe = Recipe::of(pieces("<{{ KEY }}>{{ KEY | base64 }}", &known()).unwrap());
    let whole = recipe.render(&values).unwrap();
    let bytes = whole.bytes();
    assert!(bytes[0] == b'<' && bytes[1..=large.len()] == large[..] && bytes[large.len() + 1] == b'>');
}
