package apitest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Users that the cases speak of. Setup makes all but Nobody.
const (
	Alice  = "bad-alice" // has 1000 USD
	Bob    = "bad-bob"   // has nothing
	Rich   = "bad-rich"  // has 2^53-1 USD
	Nobody = "bad-nobody"
)

// Case is one request and what the answer must be. Its name begins with the number of its kind: cases of one kind have
// one number.
type Case struct {
	Name   string
	Method string
	Path   string // and query, as it is sent
	Header http.Header
	Body   string
	// Chunked sends the body without its length.
	Chunked bool
	// Raw is all that is sent, instead of the above. The connection stays open until it is answered.
	Raw string

	Status int
	Code   string // of the error; any if empty
	// Message is the whole message; any if empty.
	Message string
	// Allow is the header of that name.
	Allow string
	// Refused is set if the request reaches the book, which remembers the refusal. No case changes a balance.
	Refused bool
	// Outside is set if net/http answers before any handler: there is no envelope.
	Outside bool
}

// Setup returns the requests that make what the cases need; each is answered with its status. They may be sent again to
// a ledger that has them.
func Setup() []Case {
	user := func(id string) Case {
		return Case{Method: "POST", Path: "/users", Header: jsonHeader(), Body: `{"id":"` + id + `","name":"` + id + `"}`, Status: 201}
	}
	add := func(id, amount string) Case {
		header := jsonHeader()
		header.Set("Idempotency-Key", "setup-add")
		return Case{Method: "POST", Path: "/users/" + id + "/add", Header: header, Body: `{"amount":` + amount + `}`, Status: 202}
	}
	return []Case{
		user(Alice), user(Bob), user(Rich),
		add(Alice, "1000"), add(Rich, "9007199254740991"),
	}
}

// BadInputs returns the cases. They are independent of each other, but not of themselves: a case with Refused set is
// answered as a replay when it is sent again.
func BadInputs() []Case {
	cases := make([]Case, 0, 256)
	put := func(c Case) { cases = append(cases, c) }

	// Bodies.
	body := func(name, text string, status int, code string) {
		put(Case{Name: name, Method: "POST", Path: "/transfers", Header: jsonHeader(), Body: text, Status: status, Code: code})
	}
	const good = `{"source":"bad-alice","destination":"bad-bob","amount":1,"transaction_id":"bad-body"}`
	with := func(field string) string { return good[:len(good)-1] + "," + field + "}" }
	without := func(name, old, new string, code string) {
		body(name, strings.Replace(good, old, new, 1), 400, code)
	}
	const malformed = "malformed_request"

	body("1 empty body", "", 400, malformed)
	body("1 blank body", " \r\n\t", 400, malformed)
	for _, text := range []string{"null", "[]", `"x"`, "1", "true", "[" + good + "]"} {
		body("2 body "+text, text, 400, malformed)
	}
	for i := 1; i < len(good); i += 7 {
		body(fmt.Sprintf("3 truncated after %d bytes", i), good[:i], 400, "")
	}
	body("3 missing comma", strings.Replace(good, ",", " ", 1), 400, malformed)
	body("3 trailing comma", good[:len(good)-1]+",}", 400, malformed)
	body("3 comment", "/* */"+good, 400, malformed)
	body("3 single quotes", strings.ReplaceAll(good, `"`, `'`), 400, malformed)
	body("4 two documents", good+good, 400, malformed)
	body("4 two documents on two lines", good+"\n"+good, 400, malformed)
	body("4 trailing garbage", good+"x", 400, malformed)
	body("4 trailing NUL", good+"\x00", 400, malformed)
	body("4 trailing brace", good+"}", 400, malformed)
	body("5 duplicate key", with(`"amount":2`), 400, malformed)
	body("5 duplicate key, same value", with(`"amount":1`), 400, malformed)
	body("5 duplicate key of a text", with(`"source":"bad-rich"`), 400, malformed)
	body("6 duplicate key by escape", with(`"am\u006funt":2`), 400, malformed)
	without("7 upper case", `"amount"`, `"AMOUNT"`, malformed)
	without("7 first letter upper case", `"amount"`, `"Amount"`, malformed)
	without("7 key with a blank", `"amount"`, `"amount "`, malformed)
	without("7 long s", `"source"`, `"ſource"`, malformed)
	body("8 unknown field", with(`"admin":true`), 400, malformed)
	body("8 unknown empty field", with(`"":1`), 400, malformed)
	body("8 unknown long field", with(`"`+strings.Repeat("x", 5000)+`":1`), 400, malformed)
	for _, name := range []string{"id", "status", "version", "created_at", "balance", "kind", "initiator", "state"} {
		body("9 server-owned field "+name, with(`"`+name+`":"x"`), 400, malformed)
	}
	body("10 byte order mark", "\ufeff"+good, 400, malformed)
	without("11 invalid UTF-8", "bad-body", "bad-\xff", malformed)
	without("11 overlong UTF-8", "bad-body", "bad-\xc0\xaf", malformed)
	without("11 surrogate in UTF-8", "bad-body", "bad-\xed\xa0\x80", malformed)
	body("11 invalid UTF-8 after the object", good+"\xff", 400, malformed)
	body("11 UTF-16", "\xff\xfe{\x00}\x00", 400, malformed)
	body("12 lone surrogate", with(`"description":"\ud800"`), 400, malformed)
	body("12 lone low surrogate", with(`"description":"\udc00"`), 400, malformed)
	body("12 surrogate and a letter", with(`"description":"\ud800\u0041"`), 400, malformed)
	body("12 surrogates in the wrong order", with(`"description":"\udc00\ud800"`), 400, malformed)
	body("12 surrogate at the end", with(`"description":"\ud800\u"`), 400, malformed)
	body("13 NUL in a description", with(`"description":"a\u0000b"`), 400, malformed)
	without("13 NUL in an id", "bad-body", `bad-\u0000`, malformed)
	without("13 raw NUL in an id", "bad-body", "bad-\x00", malformed)
	body("14 raw line feed", with("\"description\":\"a\nb\""), 400, malformed)
	body("14 delete", with("\"description\":\"a\x7fb\""), 400, malformed)
	body("14 C1 control", with("\"description\":\"a\u0085b\""), 400, malformed)
	body("14 escaped C1 control", with(`"description":"a\u0085b"`), 400, malformed)
	for name, text := range map[string]string{"bidi": "\u202e", "zero-width": "\u200b", "BOM": "\ufeff", "soft hyphen": "\u00ad"} {
		without("14 "+name+" character in a user id", "bad-bob", "bad-bob"+text, "invalid_user_id")
		without("14 "+name+" character in a transaction id", "bad-body", "bad-body"+text, "invalid_transaction_id")
	}
	body("15 nested arrays as body", strings.Repeat("[", 50_000), 400, malformed)
	without("15 nested arrays as amount", "1,", strings.Repeat("[", 50_000), "invalid_amount")
	body("15 nested objects", strings.Repeat(`{"a":`, 10_000), 400, malformed)
	body("16 20 MB body", with(`"description":"`+strings.Repeat("x", 20<<20)+`"`), 413, "payload_too_large")
	body("16 one byte too many", good+strings.Repeat(" ", 64<<10-len(good)+1), 413, "payload_too_large")
	put(Case{Name: "17 chunked body beyond the limit", Method: "POST", Path: "/transfers", Header: jsonHeader(), Chunked: true,
		Body: good + strings.Repeat(" ", 1<<20), Status: 413, Code: "payload_too_large"})

	// Batches: one bad transfer, or one bad byte, and nothing of the batch is done.
	batch := func(name, text string, status int, code, message string) {
		put(Case{Name: name + " in a batch", Method: "POST", Path: "/transfers/batch", Header: jsonHeader(), Body: text,
			Status: status, Code: code, Message: message})
	}
	second := func(name, old, new string, code, message string) { // the first is good
		batch(name, `{"transfers":[`+good+`,`+strings.Replace(strings.Replace(good, "bad-body", "bad-second", 1), old, new, 1)+`]}`, 400, code, message)
	}
	const all = `{"transfers":[` + good + `]}`
	batch("1 empty body", "", 400, malformed, "")
	for _, text := range []string{"null", "[]", good, "[" + good + "]", "{}", `{"transfers":null}`, `{"transfers":{}}`, `{"transfers":""}`} {
		batch("2 body "+text, text, 400, malformed, "")
	}
	batch("2 no transfers", `{"transfers":[]}`, 400, malformed, "transfers must have 1 to 1000 items")
	batch("2 1001 transfers", `{"transfers":[`+strings.Repeat(good+",", 1000)+good+`]}`, 400, malformed, "transfers must have 1 to 1000 items")
	for _, text := range []string{"null", "1", `"x"`, "[]", "[" + good + "]"} {
		second("2 transfer "+text, strings.Replace(good, "bad-body", "bad-second", 1), text, malformed, "transfers[1] must be an object")
	}
	for i := 1; i < len(all); i += 13 {
		batch(fmt.Sprintf("3 truncated after %d bytes", i), all[:i], 400, "", "")
	}
	batch("3 trailing comma", all[:len(all)-2]+",]}", 400, malformed, "transfers[1] must be an object")
	batch("3 no comma", `{"transfers":[`+good+good+`]}`, 400, malformed, "")
	batch("4 two documents", all+all, 400, malformed, "")
	batch("4 trailing garbage", all+"x", 400, malformed, "")
	batch("5 list twice", all[:len(all)-1]+`,"transfers":[`+good+`]}`, 400, malformed, "transfers is given twice")
	second("5 duplicate key", `"amount":1`, `"amount":1,"amount":1`, malformed, "transfers[1].amount is given twice")
	batch("7 upper case", strings.Replace(all, "transfers", "Transfers", 1), 400, malformed, "")
	second("7 upper case of a field", `"amount"`, `"AMOUNT"`, malformed, `transfers[1]: unknown field "AMOUNT"`)
	batch("8 unknown field", all[:len(all)-1]+`,"atomic":true}`, 400, malformed, `unknown field "atomic"`)
	second("8 unknown field of a transfer", `"amount"`, `"admin":true,"amount"`, malformed, `transfers[1]: unknown field "admin"`)
	second("9 server-owned field", `"amount"`, `"status":"COMPLETED","amount"`, malformed, "")
	second("11 invalid UTF-8", "bad-second", "bad-\xff", malformed, "body must be valid UTF-8")
	second("13 NUL in an id", "bad-second", `bad-\u0000`, malformed, "transfers[1].transaction_id must not contain control characters")
	second("15 nested arrays", good[1:10], strings.Repeat("[", 50_000), malformed, "")
	batch("15 nested batches", strings.Repeat(`{"transfers":[`, 10_000), 400, malformed, "")
	batch("16 one byte too many", all+strings.Repeat(" ", 8<<20-len(all)+1), 413, "payload_too_large", "body must not be longer than 8192 KiB")
	put(Case{Name: "17 chunked batch beyond the limit", Method: "POST", Path: "/transfers/batch", Header: jsonHeader(), Chunked: true,
		Body: all + strings.Repeat(" ", 9<<20), Status: 413, Code: "payload_too_large"})
	put(Case{Name: "20 batch encoded as gzip", Method: "POST", Path: "/transfers/batch", Body: all, Status: 415, Code: "unsupported_media_type",
		Header: http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}})
	put(Case{Name: "21 batch as text", Method: "POST", Path: "/transfers/batch", Body: all, Status: 415, Code: "unsupported_media_type",
		Header: http.Header{"Content-Type": {"text/plain"}}})
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS"} {
		put(Case{Name: "23 " + method + " /transfers/batch", Method: method, Path: "/transfers/batch", Status: 405, Code: "method_not_allowed"})
	}
	put(Case{Name: "29 parameter of a batch", Method: "POST", Path: "/transfers/batch?atomic=true", Header: jsonHeader(), Body: all, Status: 400, Code: malformed})
	put(Case{Name: "33 key of a batch", Method: "POST", Path: "/transfers/batch", Body: all, Status: 400, Code: malformed,
		Header: http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"bad-body"}}})
	second("33 empty transaction_id", "bad-second", "", "invalid_transaction_id", "transfers[1].transaction_id: valid transaction id required")
	second("43 no amount", `"amount":1,`, "", malformed, "transfers[1].amount is required")
	for _, amount := range []string{"0", "-1", "1.0", "1e3", `"1"`, "null", "9007199254740992"} {
		second("43 amount "+amount, `"amount":1`, `"amount":`+amount, "invalid_amount", "transfers[1].amount must be an integer from 1 to 9007199254740991")
	}
	second("54 currency usd", `"amount"`, `"currency":"usd","amount"`, "invalid_currency",
		"transfers[1].currency must be an ISO 4217 code such as USD, in capitals")
	second("60 system account", "bad-alice", "@world", "invalid_user_id", "")
	second("64 payee", "bad-bob", "a b", "invalid_user_id", "")
	second("66 description of 501 bytes", `"amount"`, `"description":"`+strings.Repeat("x", 501)+`","amount"`, "invalid_description",
		"transfers[1].description must be at most 500 bytes")

	// Headers.
	head := func(name string, header http.Header, status int, code string) {
		put(Case{Name: name, Method: "POST", Path: "/transfers", Header: header, Body: good, Status: status, Code: code})
	}
	for _, encoding := range []string{"gzip", "br", "deflate", "identity, gzip"} {
		header := jsonHeader()
		header.Set("Content-Encoding", encoding)
		head("20 body encoded as "+encoding, header, 415, "unsupported_media_type")
	}
	for _, mediaType := range []string{
		"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "text/json",
		"application/jsonx", "application/vnd.api+json", "", "application/json; charset=utf-16", "application/json; charset=latin1",
		"application/json; version=2", "application/json, text/plain", "json", "*/*",
	} {
		head("21 content type "+mediaType, http.Header{"Content-Type": {mediaType}}, 415, "unsupported_media_type")
	}
	head("21 no content type", http.Header{"Content-Type": nil}, 415, "unsupported_media_type")
	head("21 two content types", http.Header{"Content-Type": {"application/json", "application/json"}}, 415, "unsupported_media_type")
	for _, accept := range []string{
		"application/xml", "text/html, application/xml;q=0.9", "application/json;q=0", "application/json;q=0, */*", "*/*;q=0", "text/*", "x",
	} {
		header := jsonHeader()
		header.Set("Accept", accept)
		head("22 accept "+accept, header, 406, "not_acceptable")
		put(Case{Name: "22 read with accept " + accept, Method: "GET", Path: "/users/bad-alice/balance",
			Header: http.Header{"Accept": {accept}}, Status: 406, Code: "not_acceptable"})
	}

	// Methods.
	for _, method := range []string{"GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "PROPFIND", "post"} {
		put(Case{Name: "23 " + method + " /transfers", Method: method, Path: "/transfers", Status: 405, Code: "method_not_allowed", Allow: "POST"})
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		put(Case{Name: "23 " + method + " a balance", Method: method, Path: "/users/bad-alice/balance", Status: 405, Allow: "GET, HEAD"})
	}
	for _, path := range []string{"/app/create_user/bad-eve/x", "/app/transfer/bad-alice/bad-bob/1"} {
		put(Case{Name: "23 the second seed's GET " + path, Method: "GET", Path: path, Status: 405, Allow: "POST"})
	}
	put(Case{Name: "24 CONNECT", Raw: "CONNECT bad.example:443 HTTP/1.1\r\nHost: bad.example:443\r\n\r\n", Status: 405, Code: "method_not_allowed"})
	put(Case{Name: "24 CONNECT a path", Raw: "CONNECT /transfers HTTP/1.1\r\nHost: x\r\n\r\n", Status: 405, Code: "method_not_allowed", Allow: "POST"})
	put(Case{Name: "24 OPTIONS *", Raw: "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", Status: 404, Code: "not_found"})
	for _, header := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
		put(Case{Name: "25 " + header, Method: "GET", Path: "/transfers", Header: http.Header{header: {"POST"}}, Status: 405})
	}
	put(Case{Name: "25 method in the query", Method: "GET", Path: "/users/bad-alice?_method=DELETE", Status: 400, Code: malformed})

	// Paths.
	for _, path := range []string{
		"/", "/accounts/../admin", "/users/../admin", "/%2e%2e%2fadmin", "//transfers", "/transfers//", "/users/", "/users/bad-alice/",
		"/users//balance", "/users/bad-alice//balance", "/users/bad-alice/balance/", "/Users/bad-alice", "/USERS/bad-alice/balance",
		"/users/bad-alice/nothing", "/users/bad-alice/balance/../history", "/%75sers/bad-alice", "/app", "/app/get_user/",
		"/users/bad-alice/balance;x=1", "/transfers/", "/index.html", "/.env", "/.git/config",
	} {
		put(Case{Name: "26 GET " + path, Method: "GET", Path: path, Status: 404, Code: "not_found"})
	}
	for _, id := range []string{
		"%00", "a%00", "a%0d%0aX:%20y", "a%2fb", "..%2f..%2fetc%2fpasswd", "%2e", "%2e%2e", ".", "..", "a%20b", "a%25", "a%2500", "%ff", "%c0%ae",
	} {
		for _, path := range []string{"/users/" + id, "/users/" + id + "/balance", "/app/get_user/" + id} {
			put(Case{Name: "27 GET " + path, Method: "GET", Path: path, Status: 400, Code: "invalid_user_id"})
		}
		for _, path := range []string{"/transfers/" + id, "/users/bad-alice/transfers/" + id} {
			put(Case{Name: "27 GET " + path, Method: "GET", Path: path, Status: 400, Code: "invalid_transaction_id"})
		}
	}
	put(Case{Name: "26 POST //", Method: "POST", Path: "/users//balance", Status: 404, Code: "not_found"})
	put(Case{Name: "27 bad escape", Raw: "GET /users/%zz HTTP/1.1\r\nHost: x\r\n\r\n", Status: 400, Outside: true})
	put(Case{Name: "28 path of 20 KB", Method: "GET", Path: "/users/" + strings.Repeat("a", 20<<10), Status: 400, Code: "invalid_user_id"})
	put(Case{Name: "28 path of 64 KB", Raw: "GET /users/" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", Status: 431, Outside: true})
	put(Case{Name: "28 headers of 64 KB", Raw: "GET /livez HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", Status: 431, Outside: true})

	// How the message is framed: net/http's own work, which must stay as it is.
	frame := func(name, headers string) {
		put(Case{Name: "19 " + name, Status: 400, Outside: true,
			Raw: "POST /transfers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + headers + "\r\n\r\n" + good})
	}
	frame("negative Content-Length", "Content-Length: -1")
	frame("two Content-Lengths", "Content-Length: 5\r\nContent-Length: 6")
	frame("signed Content-Length", "Content-Length: +5")
	frame("blank before the colon", "Content-Length : 5")
	put(Case{Name: "19 unknown Transfer-Encoding", Status: 501, Outside: true,
		Raw: "POST /transfers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"})
	put(Case{Name: "19 no Host", Raw: "GET /livez HTTP/1.1\r\n\r\n", Status: 400, Outside: true})
	// RFC 9112 lets the chunks win if the connection is closed afterwards, which net/http does.
	put(Case{Name: "19 chunks that lie", Status: 400, Code: malformed,
		Raw: "POST /transfers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + good})

	// Queries.
	get := func(name, path string, code, message string) {
		put(Case{Name: name, Method: "GET", Path: path, Status: 400, Code: code, Message: message})
	}
	const history = "/users/bad-alice/history"
	get("29 parameter twice", history+"?page_size=1&page_size=2", malformed, "")
	get("29 parameter twice, same value", history+"?page_size=1&page_size=1", malformed, "")
	get("29 unknown parameter", history+"?page_size=1&limit=2", malformed, "")
	get("29 other case", history+"?Page_Size=1", malformed, "")
	get("29 semicolon", history+"?page_size=1;page=Mw==", malformed, "")
	get("29 bad escape", history+"?page_size=%zz", malformed, "")
	for _, path := range []string{"/users/bad-alice", "/users/bad-alice/transfers/setup-add", "/transfers/setup-add", "/livez", "/readyz", "/openapi.yaml", "/app/get_user/bad-alice"} {
		get("29 unknown parameter of "+path, path+"?x=1", malformed, "")
	}
	put(Case{Name: "29 parameter of a transfer", Method: "POST", Path: "/transfers?amount=5", Header: jsonHeader(), Body: good, Status: 400, Code: malformed})
	const pageSize = "page size should be a valid integer"
	get("30 no page_size", history, "invalid_page_size", pageSize)
	for _, size := range []string{
		"", "0", "-1", "-0", "1001", "1e9", "1000000000", "99999999999999999999", "abc", "1.0", "01", "%201", "1%20", "+1", "%2B1", "0x10", "1_0", "%EF%BC%91",
	} {
		get("30 page_size "+size, history+"?page_size="+size, "invalid_page_size", pageSize)
	}
	for _, page := range []string{
		"", "x", "Mw", "Mw=", "Mw===", "M%20w==", "Mw==%0A", "Mw%3D%3D%3D", "%00", "LTE=" /* -1 */, "MA==" /* 0 */, "MDM=" /* 03 */, "KzM=", /* +3 */
		"YWJj" /* abc */, "My4w" /* 3.0 */, "OTIyMzM3MjAzNjg1NDc3NTgwOA==" /* 2^63 */, "Mx==", /* 3, with stray bits */
		"%2Fw==", "-w==", strings.Repeat("A", 5000),
	} {
		get("31 page "+page, history+"?page_size=1&page="+page, "invalid_cursor", "invalid pagination cursor")
	}

	// Transaction ids.
	movement := func(name, header, text string, status int, code, message string) {
		for _, kind := range []string{"add", "withdraw"} {
			h := jsonHeader()
			if header != "" {
				h.Set("Idempotency-Key", header)
			}
			put(Case{Name: name + ": " + kind, Method: "POST", Path: "/users/bad-alice/" + kind, Header: h, Body: text, Status: status, Code: code, Message: message})
		}
	}
	const badTxID, txIDRequired = "invalid_transaction_id", "valid transaction id required"
	movement("32 no transaction_id", "", `{"amount":1}`, 400, badTxID, txIDRequired)
	for name, id := range map[string]string{
		"empty": "", "too long": strings.Repeat("a", 129), "blank": " ", "slash": "a/b", "system": "@world", "dot": ".a", "quote": `\"`, "not ASCII": "tx-é",
	} {
		movement("33 transaction_id "+name, "", `{"amount":1,"transaction_id":"`+id+`"}`, 400, badTxID, txIDRequired)
		without("33 transfer's transaction_id "+name, "bad-body", id, badTxID)
	}
	movement("33 transaction_id is a number", "", `{"amount":1,"transaction_id":5}`, 400, malformed, "")
	movement("33 transaction_id is null", "", `{"amount":1,"transaction_id":null}`, 400, malformed, "")
	movement("33 bad key", "a b", `{"amount":1}`, 400, badTxID, txIDRequired)
	movement("33 empty quoted key", `""`, `{"amount":1}`, 400, badTxID, txIDRequired)
	movement("33 long key", strings.Repeat("a", 256), `{"amount":1}`, 400, badTxID, txIDRequired)
	movement("33 good key, bad id", "bad-body", `{"amount":1,"transaction_id":""}`, 400, badTxID, txIDRequired)
	movement("33 key and id differ", "bad-body", `{"amount":1,"transaction_id":"bad-other"}`, 400, badTxID, "")
	two := jsonHeader()
	two["Idempotency-Key"] = []string{"bad-body", "bad-body"}
	head("33 two keys", two, 400, badTxID)
	put(Case{Name: "33 empty key", Method: "POST", Path: "/app/transfer/bad-alice/bad-bob/1", Header: http.Header{"Idempotency-Key": {""}}, Status: 400, Code: badTxID})

	conflict := func(name, path, text string) {
		put(Case{Name: name, Method: "POST", Path: path, Header: jsonHeader(), Body: text, Status: 409, Code: "transaction_id_conflict"})
	}
	conflict("35 same id, other amount", "/users/bad-alice/add", `{"amount":999,"transaction_id":"setup-add"}`)
	conflict("35 same id, other currency", "/users/bad-alice/add", `{"amount":1000,"transaction_id":"setup-add","currency":"EUR"}`)
	conflict("39 same id, withdrawal", "/users/bad-alice/withdraw", `{"amount":1000,"transaction_id":"setup-add"}`)
	conflict("39 same id, transfer", "/transfers", `{"source":"bad-alice","destination":"bad-bob","amount":1000,"transaction_id":"setup-add"}`)
	put(Case{Name: "37 same add again", Method: "POST", Path: "/users/bad-alice/add", Header: jsonHeader(),
		Body: `{"transaction_id":"setup-add", "amount":1000}`, Status: 422, Code: "already_processed", Message: "transaction was already processed"})

	// Amounts.
	amount := func(name, text string) {
		code := "invalid_amount"
		put(Case{Name: name + " amount " + text + " of a transfer", Method: "POST", Path: "/transfers", Header: jsonHeader(),
			Body: strings.Replace(good, `"amount":1`, `"amount":`+text, 1), Status: 400, Code: code})
		movement(name+" amount "+text, "", `{"transaction_id":"bad-amount","amount":`+text+`}`, 400, code, "")
	}
	body("43 no amount", strings.Replace(good, `"amount":1,`, "", 1), 400, malformed)
	for number, texts := range map[string][]string{
		"43":       {"0", "00"},
		"44":       {"-5", "-0", "-1", "+5"},
		"45":       {`"5"`, `"+5"`, `" 5"`, `""`, "05", "0005"},
		"46":       {"1.0", "1e3", "5.5", "1E3", "1.", ".5", "1e", "10e-1", "0.1"},
		"47":       {`"1.005"`, "1.005"},
		"48":       {`"NaN"`, "NaN", `"Infinity"`, "Infinity", "-Infinity", `"0x10"`, "0x10", `"1_000"`, "1_000", `"１２"`, "１２", `"١"`, "١", "1 000", "1,000"},
		"50":       {"9007199254740992", "9223372036854775808", "18446744073709551617", "1000000000000000000000000000000", strings.Repeat("9", 5000)},
		"46 value": {"null", "true", "[]", "[1]", "{}", `{"value":1}`, ""},
	} {
		for _, text := range texts {
			if text == "1 000" || text == "1,000" { // the number ends and something else follows
				without(number+" amount "+text, `"amount":1`, `"amount":`+text, malformed)
				continue
			}
			amount(number, text)
		}
	}
	for _, text := range []string{"0", "-5", "1.0", "1e3", "05", "%2B5", "abc", "9007199254740992", "%00", "5%20", "0x10", "1_0", "%D9%A1"} {
		put(Case{Name: "46 amount in the path " + text, Method: "POST", Path: "/app/transfer/bad-alice/bad-bob/" + text, Status: 400, Code: "invalid_amount"})
	}

	// What the ledger's rules refuse.
	refused := func(name, source, destination, amount string, status int, reason string) {
		id := "bad-" + name[:2] + "-" + reason
		put(Case{Name: name, Method: "POST", Path: "/transfers", Header: jsonHeader(), Status: status, Code: reason, Refused: true,
			Body: fmt.Sprintf(`{"source":%q,"destination":%q,"amount":%s,"transaction_id":%q}`, source, destination, amount, id)})
	}
	refused("49 the largest amount", Alice, Bob, "9007199254740991", 422, "insufficient_funds")
	refused("53 payee at the limit", Alice, Rich, "1", 422, "balance_limit")
	refused("56 source is destination", Alice, Alice, "1", 422, "same_account")
	refused("57 unknown payer", Nobody, Alice, "1", 404, "user_not_found")
	refused("57 unknown payee", Alice, Nobody, "1", 422, "payee_not_found")
	refused("61 one unit short", Alice, Bob, "1001", 422, "insufficient_funds")
	refusedMovement := func(name, user, kind, amount string, status int, reason string) {
		put(Case{Name: name, Method: "POST", Path: "/users/" + user + "/" + kind, Header: jsonHeader(), Status: status, Code: reason, Refused: true,
			Body: fmt.Sprintf(`{"amount":%s,"transaction_id":"bad-%s-%s"}`, amount, name[:2], kind)})
	}
	refusedMovement("53 add at the limit", Rich, "add", "1", 422, "balance_limit")
	refusedMovement("57 add to nobody", Nobody, "add", "1", 404, "user_not_found")
	refusedMovement("57 withdraw from nobody", Nobody, "withdraw", "1", 404, "user_not_found")
	refusedMovement("61 withdraw one unit too many", Alice, "withdraw", "1001", 422, "insufficient_funds")
	put(Case{Name: "55 currency that the payer has not", Method: "POST", Path: "/transfers", Header: jsonHeader(), Status: 422, Code: "insufficient_funds", Refused: true,
		Body: `{"source":"bad-alice","destination":"bad-bob","amount":1,"currency":"EUR","transaction_id":"bad-55"}`})
	put(Case{Name: "56 second seed, source is destination", Method: "POST", Path: "/app/transfer/bad-alice/bad-alice/1",
		Header: http.Header{"Idempotency-Key": {"bad-56-app"}}, Status: 422, Code: "same_account", Refused: true})

	// Names.
	for _, currency := range []string{"usd", "Usd", "US", "XXX", "", "USDD", "XTS", "XAU", "BTC", " USD", "US$", "ＵＳＤ"} {
		body("54 currency "+currency, with(`"currency":"`+currency+`"`), 400, "invalid_currency")
	}
	get("54 currency of a balance", "/users/bad-alice/balance?currency=usd", "invalid_currency", "")
	get("54 empty currency of a balance", "/users/bad-alice/balance?currency=", "invalid_currency", "")
	get("54 currency of a history", history+"?page_size=1&currency=XXX", "invalid_currency", "")
	for _, id := range []string{"@world", "@transit", "@moved"} {
		get("60 system account "+id, "/users/"+id+"/balance", "invalid_user_id", "")
		without("60 system account "+id+" as payer", `"bad-alice"`, `"`+id+`"`, "invalid_user_id")
		without("60 system account "+id+" as payee", `"bad-bob"`, `"`+id+`"`, "invalid_user_id")
		put(Case{Name: "60 second seed, system account " + id, Method: "POST", Path: "/app/transfer/" + id + "/bad-bob/1", Status: 400, Code: "invalid_user_id"})
	}
	for _, id := range []string{
		"", strings.Repeat("a", 129), strings.Repeat("a", 1024), "' or 1=1--", "$1", "%", `\\`, "😀", "аlice", "é", "e\u0301", "a b", "a/b", ".a", "a,b", "{a}", "*",
	} {
		name := id
		if len(name) > 20 {
			name = fmt.Sprint(len(id), " bytes")
		}
		without("64 payer "+name, `"bad-alice"`, `"`+id+`"`, "invalid_user_id")
		without("64 payee "+name, `"bad-bob"`, `"`+id+`"`, "invalid_user_id")
		put(Case{Name: "64 user id " + name, Method: "POST", Path: "/users", Header: jsonHeader(), Body: `{"name":"x","id":"` + id + `"}`, Status: 400, Code: "invalid_user_id"})
	}
	body("66 description of 501 bytes", with(`"description":"`+strings.Repeat("x", 501)+`"`), 400, "invalid_description")
	body("66 description of 126 emoji", with(`"description":"`+strings.Repeat("😀", 126)+`"`), 400, "invalid_description")
	body("66 description is an object", with(`"description":{"a":1}`), 400, malformed)
	body("66 description is null", with(`"description":null`), 400, malformed)
	body("66 __proto__", with(`"__proto__":{"admin":true}`), 400, malformed)
	body("66 metadata", with(`"metadata":{}`), 400, malformed)
	body("67 CRLF in a description", with(`"description":"a\r\nb"`), 400, malformed)
	body("67 ANSI escape in a description", with(`"description":"\u001b[31m"`), 400, malformed)
	body("69 client's own time", with(`"created_at":"2026-01-01T00:00:00Z"`), 400, malformed)

	newUser := func(name, text string, status int, code string) {
		put(Case{Name: name, Method: "POST", Path: "/users", Header: jsonHeader(), Body: text, Status: status, Code: code})
	}
	newUser("9 user without a name", `{}`, 400, malformed)
	newUser("9 user with a balance", `{"name":"x","balance":5}`, 400, malformed)
	newUser("9 user with a time", `{"name":"x","created_at":"2026-01-01T00:00:00Z"}`, 400, malformed)
	newUser("64 empty name", `{"name":""}`, 400, "invalid_name")
	newUser("64 blank name", `{"name":" \u00a0"}`, 400, "invalid_name")
	newUser("64 name of 201 bytes", `{"name":"`+strings.Repeat("x", 201)+`"}`, 400, "invalid_name")
	newUser("64 NUL in a name", `{"name":"a\u0000"}`, 400, malformed)
	newUser("64 name is a number", `{"name":5}`, 400, malformed)
	for _, email := range []string{"x", "@", "a@", "@b", "a b@c", "a@b@c", "Bob <bob@example.com>", "a@b, c@d", strings.Repeat("a", 250) + "@b.cd"} {
		newUser("64 email "+email[:min(len(email), 30)], `{"name":"x","email":"`+email+`"}`, 400, "invalid_email")
	}
	newUser("81 user id taken", `{"id":"bad-alice","name":"other"}`, 409, "user_id_conflict")
	put(Case{Name: "81 user id taken, second seed", Method: "POST", Path: "/app/create_user/bad-alice/other@example.com", Status: 409, Code: "user_id_conflict"})
	put(Case{Name: "64 email with a blank, second seed", Method: "POST", Path: "/app/create_user/bad-eve/a%20b", Status: 400, Code: "invalid_email"})
	put(Case{Name: "64 email with NUL, second seed", Method: "POST", Path: "/app/create_user/bad-eve/a%00", Status: 400, Code: "invalid_email"})
	put(Case{Name: "64 email not in UTF-8, second seed", Method: "POST", Path: "/app/create_user/bad-eve/a%ff", Status: 400, Code: "invalid_email"})
	put(Case{Name: "64 long email, second seed", Method: "POST", Path: "/app/create_user/bad-eve/" + strings.Repeat("a", 255), Status: 400, Code: "invalid_email"})
	put(Case{Name: "8 body where none belongs", Method: "POST", Path: "/app/transfer/bad-alice/bad-bob/1", Header: jsonHeader(),
		Body: `{"transaction_id":"bad-body"}`, Status: 400, Code: malformed})
	put(Case{Name: "8 chunked body where none belongs", Method: "POST", Path: "/app/create_user/bad-eve/x", Chunked: true, Body: "x", Status: 400, Code: malformed})

	// What is not there.
	absent := func(name, path, code string) {
		put(Case{Name: name, Method: "GET", Path: path, Status: 404, Code: code})
	}
	absent("78 unknown transfer", "/users/bad-alice/transfers/bad-never", "transfer_not_found")
	absent("78 transfer of an unknown user", "/users/bad-nobody/transfers/bad-never", "transfer_not_found")
	absent("78 transfer of the payee", "/users/bad-bob/transfers/setup-add", "transfer_not_found")
	absent("78 unknown transfer of anyone", "/transfers/bad-never", "transfer_not_found")
	absent("78 unknown user", "/users/bad-nobody", "user_not_found")
	absent("78 unknown user's balance", "/users/bad-nobody/balance", "user_not_found")
	absent("78 unknown user's history", "/users/bad-nobody/history?page_size=1", "user_not_found")
	absent("78 unknown user, second seed", "/app/get_user/bad-nobody", "user_not_found")
	put(Case{Name: "78 ambiguous transaction id", Method: "GET", Path: "/transfers/setup-add", Status: 409, Code: "ambiguous_transaction_id"})
	put(Case{Name: "90 CORS preflight", Method: "OPTIONS", Path: "/transfers", Status: 405, Allow: "POST",
		Header: http.Header{"Origin": {"https://evil.example"}, "Access-Control-Request-Method": {"POST"}}})
	put(Case{Name: "90 metrics by another method", Method: "POST", Path: "/metrics", Status: 405, Code: "method_not_allowed", Allow: "GET, HEAD"})
	for _, path := range []string{"/admin", "/shards", "/sagas", "/debug/pprof/", "/debug/vars"} {
		absent("98 "+path, path, "not_found")
	}
	return cases
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// Answer is a response that has been read. Request is set, except of a raw case.
type Answer struct {
	*http.Response
	Text string
}

// Send sends the case's request to a server, as in "127.0.0.1:8080", and reads the answer. The response's body can be
// read again.
func (c Case) Send(ctx context.Context, client *http.Client, address string) (Answer, error) {
	if c.Raw != "" {
		return c.sendRaw(ctx, address)
	}
	var body io.Reader = strings.NewReader(c.Body)
	if c.Chunked {
		body = io.MultiReader(body) // a type whose length net/http cannot know
	}
	request, err := http.NewRequestWithContext(ctx, c.Method, "http://"+address+c.Path, body)
	if err != nil {
		return Answer{}, fmt.Errorf("make request: %w", err)
	}
	for name, values := range c.Header {
		request.Header[name] = values
	}
	response, err := client.Do(request)
	if err != nil {
		return Answer{}, fmt.Errorf("send request: %w", err)
	}
	return readAnswer(response)
}

func (c Case) sendRaw(ctx context.Context, address string) (Answer, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return Answer{}, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return Answer{}, err
	}
	// A server that refuses early may close while this is still writing: what counts is its answer.
	_, _ = io.WriteString(conn, c.Raw)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return Answer{}, fmt.Errorf("read response: %w", err)
	}
	return readAnswer(response)
}

func readAnswer(response *http.Response) (Answer, error) {
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("read body: %w", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(text))
	return Answer{Response: response, Text: string(text)}, nil
}
