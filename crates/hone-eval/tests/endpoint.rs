//! Tasks put to a server: one that fails, babbles, hangs and refuses, and still every question is asked and none twice.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hone_eval::files::read_scorecard;
use hone_eval::resume::ask_into;
use hone_eval::rewards::Rewards;
use hone_eval::rewards::ratings::RatingQuestion;
use hone_eval::{DataRoot, Endpoint, EvalError, EvalOptions, Task};
use serde_json::{Value, json};

/// What the server does with a request.
enum Behaviour {
    Answer(String),
    Status(u16, &'static str),
    Garbage,
    Hang,
}

/// A server on a free port that behaves as `behave` says for each request's number and body.
struct Server {
    url: String,
    /// Bodies, as they came.
    bodies: Arc<Mutex<Vec<Value>>>,
    /// Most requests at once.
    most: Arc<AtomicUsize>,
}

fn serve(behave: impl Fn(usize, &Value) -> Behaviour + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (bodies, most, now) = (Arc::<Mutex<Vec<Value>>>::default(), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let server = Server { url, bodies: bodies.clone(), most: most.clone() };
    let (behave, now) = (Arc::new(behave), Arc::new(now));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (behave, bodies, most, now) = (behave.clone(), bodies.clone(), most.clone(), now.clone());
            std::thread::spawn(move || answer(stream, &*behave, &bodies, &most, &now));
        }
    });
    server
}

fn answer(
    mut stream: TcpStream,
    behave: &dyn Fn(usize, &Value) -> Behaviour,
    bodies: &Mutex<Vec<Value>>,
    most: &AtomicUsize,
    now: &AtomicUsize,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let number = {
        let mut bodies = bodies.lock().unwrap();
        bodies.push(body.clone());
        bodies.len() - 1
    };
    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(5));
    let mut reply = |status: u16, text: &str| {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
        // A client that has given up is no concern of the server's.
        let _ = stream.write_all(format!("{head}{text}").as_bytes());
    };
    let behaviour = behave(number, &body);
    // Before the reply, which the client may follow with its next request at once.
    if !matches!(behaviour, Behaviour::Hang) {
        now.fetch_sub(1, Ordering::SeqCst);
    }
    match behaviour {
        Behaviour::Answer(text) => {
            let chat = body.get("messages").is_some();
            let choice = if chat { json!({ "message": { "content": text } }) } else { json!({ "text": text }) };
            reply(200, &json!({ "choices": [choice] }).to_string());
        }
        Behaviour::Status(status, text) => reply(status, text),
        Behaviour::Garbage => reply(200, "<html>not an answer</html>"),
        Behaviour::Hang => {
            std::thread::sleep(Duration::from_secs(3));
            now.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// `Say N.`, and the answer is N: the server says what it is asked to, with more behind the stop text.
fn echo(body: &Value) -> Behaviour {
    let asked = body["prompt"].as_str().or(body["messages"][0]["content"].as_str()).unwrap();
    let number = asked.rsplit("Say ").next().unwrap().trim_end_matches(['.', '\n']);
    Behaviour::Answer(format!("{number}\nand more"))
}

fn task(directory: &Path, questions: usize) -> Task {
    let rows: Vec<String> = (0..questions).map(|i| format!(r#"{{"n": "{i}"}}"#)).collect();
    std::fs::write(directory.join("rows.jsonl"), rows.join("\n")).unwrap();
    let yaml = "task: numbers\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
        output_type: generate_until\ndoc_to_text: 'Say {{n}}.'\ndoc_to_target: n\n\
        generation_kwargs: {until: [\"\\n\"], max_gen_toks: 5}\nmetric_list: [{metric: exact_match}]\n";
    std::fs::write(directory.join("numbers.yaml"), yaml).unwrap();
    Task::load(directory.join("numbers.yaml").to_str().unwrap(), &DataRoot::default()).unwrap()
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint {
        in_flight: 3,
        timeout: Duration::from_millis(500),
        first_wait: Duration::from_millis(20),
        ..Endpoint::new(&server.url, "its-name")
    }
}

#[test]
fn what_fails_for_a_while_is_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(|number, body| match number {
        0 => Behaviour::Status(500, "busy"),
        1 => Behaviour::Garbage,
        2 => Behaviour::Hang,
        3 => Behaviour::Status(429, "slower"),
        _ => echo(body),
    });
    let task = task(directory.path(), 20);
    let card = endpoint(&server).card(&task, &EvalOptions::default(), &mut |_| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!((card.header.n, card.header.metrics[0].value), (20, 1.0));
    assert!(card.rows.iter().enumerate().all(|(i, row)| row.answer == i.to_string()), "cut at the stop text, in order");
    assert_eq!(server.bodies.lock().unwrap().len(), 24);
    assert!(server.most.load(Ordering::SeqCst) <= 3 + 1, "the one that hangs, and three at once");
    let body = server.bodies.lock().unwrap()[10].clone();
    assert_eq!(
        (&body["model"], &body["max_tokens"], &body["temperature"]),
        (&json!("its-name"), &json!(5), &json!(0.0))
    );
    assert_eq!(body["stop"], json!(["\n"]));
}

#[test]
fn a_refusal_ends_it_and_what_was_answered_is_not_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    let refuses = Arc::new(AtomicBool::new(true));
    let asked = refuses.clone();
    let server = serve(move |_, body| {
        let last = body["messages"][0]["content"].as_str() == Some("Say 70.");
        match last && asked.load(Ordering::SeqCst) {
            true => Behaviour::Status(400, "too long for me"),
            false => echo(body),
        }
    });
    let (task, place) = (task(directory.path(), 80), directory.path().join("cards/numbers.jsonl"));
    let options = EvalOptions { chat_template: true, ..EvalOptions::default() };
    let run = || ask_into(&place, &endpoint(&server), &task, &options, &mut |_| {}, &AtomicBool::new(false));
    let error = run().unwrap_err();
    assert!(matches!(error, EvalError::Endpoint { .. }));
    let message = error.to_string();
    assert!(
        message.contains("example 70") && message.contains("400") && message.contains("too long for me"),
        "{message}"
    );
    let before = server.bodies.lock().unwrap().len();
    refuses.store(false, Ordering::SeqCst);
    assert_eq!(run().unwrap().n, 80);
    assert_eq!(server.bodies.lock().unwrap().len() - before, 16, "the second wave alone");
    assert_eq!(read_scorecard(&place).unwrap().header.metrics[0].value, 1.0);
}

#[test]
fn a_server_that_never_answers_is_given_up_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(|_, _| Behaviour::Status(503, ""));
    let endpoint = Endpoint { retries: 2, ..endpoint(&server) };
    let outcome =
        endpoint.card(&task(directory.path(), 1), &EvalOptions::default(), &mut |_| {}, &AtomicBool::new(false));
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains(&server.url) && message.contains("503") && message.contains("tried 3 times"), "{message}");
}

#[test]
fn tasks_that_need_log_likelihoods_are_refused() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/parity_boolq.yaml");
    let task = Task::load(file.to_str().unwrap(), &DataRoot::default()).unwrap();
    let endpoint = Endpoint::new("http://127.0.0.1:9", "none");
    let outcome = endpoint.card(&task, &EvalOptions::default(), &mut |_| {}, &AtomicBool::new(false));
    assert!(outcome.unwrap_err().to_string().contains("written answers only"));
}

/// A server rates answers, each in a request of its own; what it babbles to one of them counts as no rating.
#[test]
fn a_server_rates_answers_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let rows = r#"{"prompt": "Q0", "choices": ["good", "bad", "babble"]}
{"prompt": "Q1", "choices": ["bad", "good", "good"]}
"#;
    std::fs::write(directory.path().join("rows.jsonl"), rows).unwrap();
    let yaml = "task: pick\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n\
        output_type: multiple_choice\ndoc_to_text: prompt\ndoc_to_choice: choices\ndoc_to_target: '0'\n\
        metric_list: [{metric: best_of}]\n";
    let file = directory.path().join("pick.yaml");
    std::fs::write(&file, yaml).unwrap();
    let task = Task::load(file.to_str().unwrap(), &DataRoot::default()).unwrap();
    let server = serve(|_, body| {
        let asked = body["messages"][0]["content"].as_str().unwrap();
        let answer = asked.split("Answer:\n").nth(1).unwrap().lines().next().unwrap();
        Behaviour::Answer(match answer {
            "good" => "I would say 9.".into(),
            "bad" => "2".into(),
            _ => "I like it, truly".into(),
        })
    });
    let question = RatingQuestion::load("judge_rating").unwrap();
    let options = EvalOptions {
        rewards: Some(Rewards::Ratings(Arc::new(question))),
        chat_template: true,
        ..EvalOptions::default()
    };
    let place = directory.path().join("pick.jsonl");
    ask_into(&place, &endpoint(&server), &task, &options, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    let card = read_scorecard(&place).unwrap();
    let rewards: Vec<Vec<f64>> =
        card.rows.iter().map(|row| row.rewards.iter().map(|completion| completion.reward).collect()).collect();
    assert_eq!(rewards, [vec![9.0, 2.0, -1.0], vec![2.0, 9.0, 9.0]]);
    assert_eq!(card.rows.iter().map(|row| row.score).collect::<Vec<_>>(), [1.0, 0.0]);
    assert_eq!(card.rows[0].rewards[2].reply.as_deref(), Some("I like it, truly"));
    assert_eq!(server.bodies.lock().unwrap().len(), 6);
    // What cannot be asked is named by the example and its answer.
    let refusing = serve(|_, body| match body.to_string().contains("babble") {
        true => Behaviour::Status(400, "no"),
        false => Behaviour::Answer("5".into()),
    });
    let failed = endpoint(&refusing).card(&task, &options, &mut |_| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(failed.to_string().contains("example 0, answer 3"), "{failed}");
    let head = EvalOptions { rewards: Some(Rewards::Head(Arc::default())), ..options };
    let refused = endpoint(&server).card(&task, &head, &mut |_| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(refused.to_string().contains("--rewards ratings"), "{refused}");
}
