package kubernetes

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// selectorPart is a token of a selector: a word, or what is none.
var selectorPart = regexp.MustCompile(`^(?:[A-Za-z0-9._/-]+|==|!=|[=!(),])`)

// labelValue is the value of a label, and the name in its key.
var labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)

// parseSelector reads a label selector of Kubernetes, strictly, and writes it anew: requirements
// that all hold, as app=api, app!=api, tier in (a,b), tier notin (a,b), canary and !canary. An
// empty value, which the API admits, is more likely a slip.
func parseSelector(text string) (string, error) {
	p := &selectorParser{}
	for rest := strings.TrimLeft(text, " "); rest != ""; rest = strings.TrimLeft(rest, " ") {
		token := selectorPart.FindString(rest)
		if token == "" {
			return "", fmt.Errorf("has %+q, which cannot stand in one", firstRune(rest))
		}
		p.tokens, rest = append(p.tokens, token), rest[len(token):]
	}
	var requirements []string
	for {
		one, err := p.requirement()
		if err != nil {
			return "", err
		}
		requirements = append(requirements, one)
		switch next := p.next(); next {
		case "":
			return strings.Join(requirements, ","), nil
		case ",":
		default:
			return "", fmt.Errorf("has %q after %s: requirements are separated by commas", next, one)
		}
	}
}

func firstRune(text string) string {
	for _, r := range text {
		return string(r)
	}
	return ""
}

type selectorParser struct{ tokens []string }

// next takes a token; "" at the end.
func (p *selectorParser) next() string {
	if len(p.tokens) == 0 {
		return ""
	}
	token := p.tokens[0]
	p.tokens = p.tokens[1:]
	return token
}

func (p *selectorParser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *selectorParser) requirement() (string, error) {
	key := p.next()
	if key == "!" {
		key = p.next()
		return "!" + key, checkKey(key)
	}
	if err := checkKey(key); err != nil {
		return "", err
	}
	switch operator := p.peek(); operator {
	case "", ",":
		return key, nil
	case "=", "==", "!=":
		p.next()
		value := p.next()
		return key + operator + value, checkValue(key, value)
	case "in", "notin":
		p.next()
		values, err := p.values(key)
		return key + " " + operator + " (" + values + ")", err
	default:
		return "", fmt.Errorf("has %q after %s: write =, !=, in (...) or notin (...)", operator, key)
	}
}

// values reads (a,b).
func (p *selectorParser) values(key string) (string, error) {
	if p.next() != "(" {
		return "", fmt.Errorf("needs values in parentheses, as in %s in (a,b)", key)
	}
	var values []string
	for {
		value := p.next()
		if err := checkValue(key, value); err != nil {
			return "", err
		}
		values = append(values, value)
		switch p.next() {
		case ")":
			return strings.Join(values, ","), nil
		case ",":
		default:
			return "", fmt.Errorf("needs a parenthesis after the values of %s, as in %s in (a,b)", key, key)
		}
	}
}

// checkKey refuses what is no key of a label: a name, after a prefix and a slash if there is one.
func checkKey(key string) error {
	if key == "" {
		return errors.New("ends where the key of a label should stand")
	}
	prefix, name, prefixed := strings.Cut(key, "/")
	if !prefixed {
		prefix, name = "", key
	}
	if prefixed && !isSubdomain(prefix) || len(name) > maxLabel || !labelValue.MatchString(name) {
		return fmt.Errorf("has %s where the key of a label should stand, such as app or example.com/app", shown(key))
	}
	return nil
}

func checkValue(key, value string) error {
	switch {
	case value == "":
		return fmt.Errorf("ends where a value of %s should stand", key)
	case len(value) > maxLabel || !labelValue.MatchString(value):
		return fmt.Errorf("has %s where a value of %s should stand: letters, digits, and between them - _ and ., at most %d", shown(value), key, maxLabel)
	}
	return nil
}
