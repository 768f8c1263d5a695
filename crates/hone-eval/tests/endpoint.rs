//! Tasks put to a server: one that fails, babbles, hangs and refuses, and still every question is asked and none twice.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hone_eval::files::read_scorecard;
use hone_eval::resume::ask_into;
use hone_eval::rewards::Rewards;
use hone_eval::rewards::ratings::RatingQuestion;
use hone_eval::scorecard::ScorecardRow;
use hone_eval::{DataRoot, Endpoint, EvalError, EvalOptions, Progress, Task};
use serde_json::{Value, json};

/// What the server does with a request.
enum Behaviour {
    Answer(String),
    Status(u16, &'static str),
    /// Busy, with these lines in the head of the reply.
    Busy(&'static str),
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
        Behaviour::Busy(head) => {
            let text = format!("HTTP/1.1 503 X\r\n{head}Content-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(text.as_bytes());
        }
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

/// `Retry-After` is seconds or a date, by the server's clock.
#[test]
fn a_server_is_given_the_time_that_it_asks_for() {
    let directory = tempfile::tempdir().unwrap();
    let task = task(directory.path(), 1);
    let waited = |head: &'static str| {
        let times = Arc::new(Mutex::new(Vec::new()));
        let seen = times.clone();
        let server = serve(move |number, body| {
            seen.lock().unwrap().push(Instant::now());
            if number == 0 { Behaviour::Busy(head) } else { echo(body) }
        });
        let card =
            endpoint(&server).card(&task, &EvalOptions::default(), &mut |_| {}, &AtomicBool::new(false)).unwrap();
        assert_eq!(card.header.unanswered, 0);
        let times = times.lock().unwrap();
        times[1] - times[0]
    };
    assert!(waited("").as_secs_f64() < 0.9, "20 ms where nothing is asked");
    assert!(waited("Retry-After: 1\r\n").as_secs_f64() > 0.9);
    let date = "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: Wed, 21 Oct 2015 07:28:01 GMT\r\n";
    assert!(waited(date).as_secs_f64() > 0.9);
    assert!(waited("Retry-After: Wed, 21 Oct 2015 07:28:01 GMT\r\n").as_secs_f64() < 0.9, "it is past");
}

/// Settings that the protocol has no field for are said before anything is asked, if they change which tokens are picked.
#[test]
fn what_a_server_cannot_be_told_of_picking_tokens_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(|_, body| echo(body));
    drop(task(directory.path(), 2));
    let file = directory.path().join("numbers.yaml");
    let plain = std::fs::read_to_string(&file).unwrap();
    let asked = |settings: &str| {
        std::fs::write(&file, plain.replace("max_gen_toks: 5", settings)).unwrap();
        let task = Task::load(file.to_str().unwrap(), &DataRoot::default()).unwrap();
        endpoint(&server).card(&task, &EvalOptions::default(), &mut |_| {}, &AtomicBool::new(false))
    };
    for (setting, settings) in [
        ("min_p", "do_sample: true, min_p: 0.1"),
        ("top_k", "temperature: 0.5, top_k: 5"),
        ("repetition_penalty", "repetition_penalty: 1.2"),
    ] {
        let message = asked(settings).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(&format!("generation_kwargs.{setting}: the protocol has no field")), "{message}");
    }
    assert!(server.bodies.lock().unwrap().is_empty(), "nothing was asked");
    // Where no tokens are drawn the first two change nothing; a temperature alone means draws.
    asked("min_p: 0.1, top_k: 5, temperature: 0.0, repetition_penalty: 1.0").unwrap();
    asked("temperature: 0.5, top_p: 0.9").unwrap();
    let bodies = server.bodies.lock().unwrap();
    assert_eq!((&bodies[0]["temperature"], bodies[0].get("top_p")), (&json!(0.0), None));
    let close = |found: &Value, expected: f64| (found.as_f64().unwrap() - expected).abs() < 1e-6;
    assert!(close(&bodies[2]["temperature"], 0.5) && close(&bodies[2]["top_p"], 0.9), "{}", bodies[2]);
}

/// The question that a request holds.
fn question(body: &Value) -> usize {
    let asked = body["prompt"].as_str().or(body["messages"][0]["content"].as_str()).unwrap();
    asked.trim_start_matches("Say ").trim_end_matches('.').parse().unwrap()
}

#[test]
fn a_locked_server_ends_it_and_what_was_answered_is_not_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    let locked = Arc::new(AtomicBool::new(true));
    let asked = locked.clone();
    let server = serve(move |_, body| match question(body) {
        70 if asked.load(Ordering::SeqCst) => Behaviour::Status(401, "the key is over"),
        66 => Behaviour::Status(400, "too long for me"),
        _ => echo(body),
    });
    let (task, place) = (task(directory.path(), 80), directory.path().join("cards/numbers.jsonl"));
    let options = EvalOptions { chat_template: true, ..EvalOptions::default() };
    let run = || ask_into(&place, &endpoint(&server), &task, &options, &mut |_| {}, &AtomicBool::new(false));
    let error = run().unwrap_err();
    assert!(matches!(error, EvalError::Endpoint { .. }));
    let message = error.to_string();
    assert!(
        message.contains("example 70") && message.contains("401") && message.contains("the key is over"),
        "{message}"
    );
    // Whoever was asked before was answered or refused, but the one that the server was locked for.
    let mut before: Vec<usize> = server.bodies.lock().unwrap().iter().map(question).collect();
    locked.store(false, Ordering::SeqCst);
    let header = run().unwrap();
    assert_eq!((header.n, header.unanswered), (80, 1), "the refused example was kept as one");
    let again: Vec<usize> = server.bodies.lock().unwrap()[before.len()..].iter().map(question).collect();
    before.retain(|question| *question != 70);
    let mut all = [before, again].concat();
    all.sort_unstable();
    assert_eq!(all, (0..80).collect::<Vec<_>>(), "only those without an answer were asked again");
    let card = read_scorecard(&place).unwrap();
    assert!(card.rows.iter().enumerate().all(|(i, row)| row.id == i.to_string()), "each once, in order");
    assert_eq!(card.header.metrics[0].value, 79.0 / 80.0);
}

/// Servers like to quote what they refuse.
#[test]
fn what_a_server_says_of_a_sensitive_question_is_not_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let said = |sensitive: bool, code: u16| {
        let server = serve(move |_, _| Behaviour::Status(code, "content policy: Say 0."));
        let mut task = task(directory.path(), 3);
        task.config.sensitive = sensitive;
        let place = directory.path().join(format!("{sensitive}{code}.jsonl"));
        let options = EvalOptions::default();
        let error = ask_into(&place, &endpoint(&server), &task, &options, &mut |_| {}, &AtomicBool::new(false));
        error.unwrap_err().to_string()
    };
    for code in [400, 401] {
        assert!(said(false, code).contains("content policy: Say 0."));
        let hidden = said(true, code);
        assert!(hidden.contains(&format!("status {code}: (not shown")) && !hidden.contains("Say 0"), "{hidden}");
    }
}

#[test]
fn an_example_that_is_not_answered_counts_as_wrong_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(|_, body| match question(body) {
        5 => Behaviour::Status(400, "too long for me"),
        30 => Behaviour::Status(500, "out of memory"),
        // Alone in its wave, which says nothing of the server.
        64 => Behaviour::Garbage,
        _ => echo(body),
    });
    let (task, place) = (task(directory.path(), 65), directory.path().join("numbers.jsonl"));
    let options = EvalOptions::default();
    let endpoint = Endpoint { retries: 1, ..endpoint(&server) };
    let run = || ask_into(&place, &endpoint, &task, &options, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    let header = run();
    assert_eq!((header.n, header.unanswered), (65, 3));
    assert_eq!(header.first_unanswered.as_deref(), Some("status 400: too long for me"));
    assert_eq!(
        server.bodies.lock().unwrap().len(),
        65 + 2,
        "what is refused is asked once, what fails as often as it may"
    );
    let card = read_scorecard(&place).unwrap();
    assert_eq!((card.header.unanswered, card.header.metrics[0].value), (3, 62.0 / 65.0));
    for (i, row) in card.rows.iter().enumerate() {
        let why = match i {
            5 => "status 400: too long for me",
            30 => "status 500: out of memory (tried 2 times)",
            64 => "the answer is no JSON",
            _ => {
                assert_eq!((row.answer.as_str(), row.score, &row.unanswered), (i.to_string().as_str(), 1.0, &None));
                continue;
            }
        };
        assert_eq!((row.answer.as_str(), row.score), ("", 0.0), "{i}");
        assert!(row.unanswered.as_deref().is_some_and(|said| said.starts_with(why)), "{i}: {:?}", row.unanswered);
    }
    assert_eq!(run(), card.header);
    assert_eq!(server.bodies.lock().unwrap().len(), 67, "a finished card is not asked again");
    let memory = endpoint.card(&task, &options, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!((memory.header.unanswered, memory.rows), (3, card.rows));
}

#[test]
fn a_server_that_is_wrong_altogether_ends_it_with_its_words() {
    let directory = tempfile::tempdir().unwrap();
    let (task, place) = (task(directory.path(), 20), directory.path().join("cards/numbers.jsonl"));
    let ask = |endpoint: &Endpoint| {
        let stop = AtomicBool::new(false);
        ask_into(&place, endpoint, &task, &EvalOptions::default(), &mut |_| {}, &stop).map_err(|e| e.to_string())
    };
    for status in [401, 403, 404] {
        let server = serve(move |_, _| Behaviour::Status(status, "not you"));
        let message = ask(&endpoint(&server)).unwrap_err();
        assert!(message.contains(&format!("status {status}: not you")), "{message}");
        assert!(server.bodies.lock().unwrap().len() <= 3, "those in flight");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Endpoint {
        retries: 1,
        first_wait: Duration::from_millis(5),
        ..Endpoint::new(&format!("http://{free}/v1"), "nobody")
    };
    let message = ask(&nobody).unwrap_err();
    assert!(message.contains("refused") && message.contains("tried 2 times"), "{message}");
    // One that answers nobody is given up long before half of the wave.
    let babbler = serve(|_, _| Behaviour::Garbage);
    let message = ask(&Endpoint { retries: 0, ..endpoint(&babbler) }).unwrap_err();
    assert!(message.contains("the answer is no JSON") && message.contains("4 of these 20 questions"), "{message}");
    assert!(!directory.path().join("cards").exists(), "nothing is begun");
    // One question more than half.
    let picky = serve(|_, body| match question(body).is_multiple_of(2) || question(body) == 19 {
        true => Behaviour::Status(422, "not this one"),
        false => echo(body),
    });
    let message = ask(&endpoint(&picky)).unwrap_err();
    assert!(message.contains("example 0: status 422: not this one; 11 of these 20"), "{message}");
    assert!(directory.path().join("cards/numbers.jsonl.part").exists(), "what was answered stays");
    // It is judged by the same questions when it is asked for the rest.
    let message = ask(&endpoint(&picky)).unwrap_err();
    assert!(message.contains("11 of these 20"), "{message}");
    let asked = picky.bodies.lock().unwrap().iter().filter(|body| !question(body).is_multiple_of(2)).count();
    assert_eq!(asked, 10 + 1, "nobody that was answered is asked again: only 19");
    let half = serve(|_, body| match question(body).is_multiple_of(2) {
        true => Behaviour::Status(422, "not this one"),
        false => echo(body),
    });
    assert_eq!(ask(&endpoint(&half)).unwrap().unanswered, 10);
}

#[test]
fn what_was_answered_when_the_user_stops_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(|_, body| echo(body));
    let (task, place) = (task(directory.path(), 30), directory.path().join("numbers.jsonl"));
    let options = EvalOptions::default();
    let stop = AtomicBool::new(false);
    let stopped = ask_into(
        &place,
        &endpoint(&server),
        &task,
        &options,
        &mut |at| stop.store(at.done >= 10, Ordering::SeqCst),
        &stop,
    );
    assert!(matches!(stopped, Err(EvalError::Stopped { .. })));
    assert!(server.bodies.lock().unwrap().len() < 20);
    let header = ask_into(&place, &endpoint(&server), &task, &options, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!((header.n, header.metrics[0].value), (30, 1.0));
    let mut asked: Vec<usize> = server.bodies.lock().unwrap().iter().map(question).collect();
    asked.sort_unstable();
    assert_eq!(asked, (0..30).collect::<Vec<_>>(), "none twice");
}

/// Who waits for another try has nothing under way: there is no last request, and nobody waits for its answer.
#[test]
fn who_stops_between_two_tries_does_not_ask_again() {
    let directory = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    let server = serve(move |number, _| {
        let stop = stopper.clone();
        if number == 0 {
            // While the client waits for its next try.
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                stop.store(true, Ordering::SeqCst);
            });
        }
        Behaviour::Status(500, "in a while")
    });
    let endpoint = Endpoint { in_flight: 1, first_wait: Duration::from_secs(30), ..endpoint(&server) };
    let (task, place) = (task(directory.path(), 3), directory.path().join("numbers.jsonl"));
    let outcome = ask_into(&place, &endpoint, &task, &EvalOptions::default(), &mut |_| {}, &stop);
    assert!(matches!(outcome, Err(EvalError::Stopped { done: 0, .. })), "{outcome:?}");
    assert_eq!(server.bodies.lock().unwrap().len(), 1, "no further request");
}

/// What the file holds while the first question is still being thought about is what a kill would leave.
#[test]
fn what_is_answered_is_on_the_disk_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(|_, body| {
        if question(body) == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        echo(body)
    });
    let endpoint = Endpoint { timeout: Duration::from_secs(20), ..endpoint(&server) };
    let (task, place) = (task(directory.path(), 70), directory.path().join("numbers.jsonl"));
    let options = EvalOptions::default();
    let part = directory.path().join("numbers.jsonl.part");
    let mut left = Vec::new();
    let mut progress = |at: &Progress<'_>| {
        let text = std::fs::read_to_string(&part).unwrap_or_default();
        let marks = text.lines().filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["example"].as_u64()));
        let places: Vec<u64> = marks.flatten().collect();
        assert_eq!(places.len(), at.done);
        if at.done == 20 && !places.contains(&0) {
            left = text.into_bytes();
        }
    };
    let whole = ask_into(&place, &endpoint, &task, &options, &mut progress, &AtomicBool::new(false)).unwrap();
    assert!(!left.is_empty(), "the others did not wait for the first");
    let rows = read_scorecard(&place).unwrap().rows;
    assert_eq!(server.bodies.lock().unwrap().len(), 70);
    // Killed there.
    std::fs::remove_file(&place).unwrap();
    std::fs::write(&part, left).unwrap();
    let header = ask_into(&place, &endpoint, &task, &options, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!(header.metrics, whole.metrics);
    assert_eq!(read_scorecard(&place).unwrap().rows, rows);
    let asked: Vec<usize> = server.bodies.lock().unwrap()[70..].iter().map(question).collect();
    assert_eq!((asked.len(), asked.iter().min()), (50, Some(&0)));
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
    assert_eq!((card.header.ratings, card.header.unrated), (6, 1));
    assert_eq!(card.rows.iter().map(|row| row.score).collect::<Vec<_>>(), [1.0, 0.0]);
    assert_eq!(card.rows[0].rewards[2].reply.as_deref(), Some("I like it, truly"));
    assert_eq!(server.bodies.lock().unwrap().len(), 6);
    // A rating that cannot be had is none, and helps nobody.
    let refusing = serve(|_, body| match body.to_string().contains("babble") {
        true => Behaviour::Status(400, "no"),
        false => Behaviour::Answer("5".into()),
    });
    let card = endpoint(&refusing).card(&task, &options, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    let rewards = |row: &ScorecardRow| row.rewards.iter().map(|completion| completion.reward).collect::<Vec<_>>();
    assert_eq!((rewards(&card.rows[0]), card.rows[0].score), (vec![5.0, 5.0, -1.0], 0.0));
    assert_eq!(card.rows[0].unanswered.as_deref(), Some("answer 3: status 400: no"));
    assert_eq!((rewards(&card.rows[1]), &card.rows[1].unanswered), (vec![5.0; 3], &None));
    assert_eq!((card.header.unanswered, card.header.metrics[0].value), (1, (1.0 / 3.0) / 2.0));
    // Of a wave that ends early those examples are kept all of whose answers are rated, and the others are asked again.
    let locked = Arc::new(AtomicBool::new(true));
    let asked = locked.clone();
    let locking = serve(move |_, body| {
        let last = body.to_string().contains("Q1") && !body.to_string().contains("Answer:\\ngood");
        match last && asked.load(Ordering::SeqCst) {
            true => Behaviour::Status(401, "locked"),
            false => Behaviour::Answer("5".into()),
        }
    });
    let place = directory.path().join("locked.jsonl");
    let run = || {
        let asker = Endpoint { in_flight: 1, ..endpoint(&locking) };
        ask_into(&place, &asker, &task, &options, &mut |_| {}, &AtomicBool::new(false))
    };
    assert!(run().unwrap_err().to_string().contains("example 1, answer 1: status 401"));
    assert_eq!(locking.bodies.lock().unwrap().len(), 4);
    locked.store(false, Ordering::SeqCst);
    assert_eq!(run().unwrap().n, 2);
    assert_eq!(locking.bodies.lock().unwrap().len(), 4 + 3);
    let head = EvalOptions { rewards: Some(Rewards::Head(Arc::default())), ..options };
    let refused = endpoint(&server).card(&task, &head, &mut |_| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(refused.to_string().contains("--rewards ratings"), "{refused}");
}
