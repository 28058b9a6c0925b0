package apikey

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strconv"
	"time"

	"github.com/go-openapi/jsonpointer"
)

// pointer is a JSON pointer (RFC 6901) into an answer; nil where there is none. The empty
// text points to the answer as a whole.
type pointer struct{ p jsonpointer.Pointer }

func parsePointer(text string) (*pointer, error) {
	p, err := jsonpointer.New(text)
	if err != nil {
		return nil, errors.New(`must be a JSON pointer (RFC 6901), such as "/data/id"`)
	}
	return &pointer{p}, nil
}

// in gives what the pointer points to; nil where that is nothing, or null.
func (p *pointer) in(document any) any {
	if p == nil {
		return nil
	}
	value, _, err := p.p.Get(document)
	if err != nil {
		return nil
	}
	return value
}

// present tells whether there is anything, even null, at the pointer.
func (p *pointer) present(document any) bool {
	_, _, err := p.p.Get(document)
	return err == nil
}

// decodeAnswer reads the one JSON document that an answer is. Numbers stay as they were
// written: an id may have more digits than a float.
func decodeAnswer(body []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var document any
	if err := dec.Decode(&document); err != nil {
		return nil, errors.New("it is not JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it is more than one JSON document")
	}
	return document, nil
}

// token is a text that comes from the provider and goes into requests, or to readers:
// hostile until it was seen to be one word of printable ASCII within bounds.
func token(value any, limit int) (string, bool) {
	text, ok := value.(string)
	return text, ok && text != "" && len(text) <= limit && isPrintable(text)
}

var wholeNumber = regexp.MustCompile(`^-?[0-9]+$`)

// identifier is the provider's id of a key: a text, or a whole number kept digit by digit.
func identifier(value any) (string, bool) {
	text, ok := value.(string)
	if number, is := value.(json.Number); is {
		text, ok = string(number), wholeNumber.MatchString(string(number))
	}
	if !ok || !validID(text) {
		return "", false
	}
	return text, true
}

// date reads a date: RFC 3339, or seconds since 1970. Nothing, null, an empty text and 0
// are the zero date.
func date(value any) (at time.Time, ok bool) {
	switch value := value.(type) {
	case nil:
		return at, true
	case json.Number:
		seconds, err := strconv.ParseInt(string(value), 10, 64)
		return instant(seconds), err == nil && seconds >= 0 && seconds <= maxInstant
	case string:
		if value == "" {
			return at, true
		}
		at, err := time.Parse(time.RFC3339, value)
		if err != nil || at.UTC().Year() > 9999 {
			return time.Time{}, false
		}
		return at.UTC(), true
	}
	return at, false
}

// plain is a text, a number or a truth value as text.
func plain(value any) (string, bool) {
	switch value := value.(type) {
	case string:
		return value, true
	case json.Number:
		return string(value), true
	case bool:
		return strconv.FormatBool(value), true
	}
	return "", false
}
