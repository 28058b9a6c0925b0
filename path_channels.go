package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

func (b *Backend) channelPaths() []*framework.Path {
	return []*framework.Path{listPath("channels", b.engine.ChannelNames, "oncall", "ops"), b.channelPath(), b.channelTestPath(), b.acknowledgePath()}
}

func (b *Backend) channelPath() *framework.Path {
	fields := b.channels.fields()
	fields["name"] = nameField("channel")
	write := mutates(framework.PathOperation{
		Callback:     b.writeChannel,
		Summary:      "Create or change a channel.",
		DisplayAttrs: operation("write", "channel"),
		Examples: []framework.RequestExample{
			example("", map[string]any{"type": "slack", "url": "https://hooks.slack.com/services/...", "severity": "warning"}),
		},
		Responses: done(),
	})
	return &framework.Path{
		Pattern:        pattern("channels/:name"),
		Fields:         fields,
		ExistenceCheck: b.channelExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: asksActive(framework.PathOperation{
				Callback:     b.readChannel,
				Summary:      "Read a channel, without its secrets, and how it fares.",
				DisplayAttrs: operation("read", "channel"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The channel, defaults included.", b.channelAnswer(), exampleChannel),
			}),
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.DeleteOperation: mutates(framework.PathOperation{
				Callback:     b.deleteChannel,
				Summary:      "Delete a channel that nothing names, and what waits for it.",
				DisplayAttrs: operation("delete", "channel"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    done(),
			}),
		},
		HelpSynopsis: "Where people are told.",
		HelpDescription: `
What happens is stored with what it tells of, and delivered at least once, in order,
by workers that no rotation waits for. A channel is told of what its filters let
through: events, severity and roles. What is left out of a write keeps its value;
a secret does not follow an address. Write test to see whether people are reached.`,
	}
}

func (b *Backend) channelAnswer() map[string]*framework.FieldSchema {
	return b.channels.shown(map[string]*framework.FieldSchema{
		"type":          text("Type of channel."),
		"waiting":       number("How many messages are on their way."),
		"failures":      number("How many attempts in a row failed."),
		"failing_since": moment("Since when it takes no message."),
		"next_attempt":  moment("When the next attempt is due."),
		"last_error":    text("Why the last attempt failed."),
		"undelivered":   number("How many messages were given up, ever."),
		"lost":          list("The last messages that were given up: time, event, role, reason."),
	})
}

var exampleChannel = map[string]any{
	"type": "slack", "events": []string{"*"}, "severity": "warning", "roles": []string{"*"}, "allow_insecure_http": false,
	"waiting": 0, "failures": 0, "failing_since": nil, "next_attempt": nil, "last_error": nil, "undelivered": 0, "lost": []any{},
}

func (b *Backend) channelTestPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("channels/:name/test"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("channel")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.testChannel,
				Summary:      "Send a test message.",
				DisplayAttrs: operation("test", "channel"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    done(),
			}),
		},
		HelpSynopsis:    "Send a test message, and hear what came of it.",
		HelpDescription: "The message is sent at once, whatever the filters; 400 says why the channel did not take it.",
	}
}

func (b *Backend) acknowledgePath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("acknowledge/:name"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.acknowledge,
				Summary:      "Say that you look after what is wrong with a role.",
				DisplayAttrs: operation("acknowledge", "alarm"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The alarm.", alarmFields(), exampleAlarm),
			}),
		},
		HelpSynopsis: "Acknowledge the alarm of a role.",
		HelpDescription: `
While nobody does, each of the contacts of config is told in turn, escalate_after
apart. An alarm ends by itself once the role is well. Incidents are acknowledged at
incidents/:id.`,
	}
}

func alarmFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"state":        text("What is wrong, in a word of status."),
		"reason":       text("What is wrong, in words."),
		"since":        moment("Since when."),
		"contacts":     number("How many of the contacts were told."),
		"acknowledged": object("Who looks after it: time, actor; null for nobody."),
	}
}

var exampleAlarm = renderAlarm(&rotation.Alarm{
	State: "failing", Reason: "the target refuses the connection's credential", Since: exampleTime, Contacts: 1,
	Acknowledged: &rotation.Acknowledgement{Time: exampleTime, Actor: rotation.Actor{DisplayName: "oidc-ada"}},
})

func renderAlarm(a *rotation.Alarm) map[string]any {
	return map[string]any{
		"state": a.State, "reason": a.Reason, "since": renderTime(a.Since), "contacts": a.Contacts, "acknowledged": renderAcknowledged(a.Acknowledged),
	}
}

func (b *Backend) channelExists(ctx context.Context, _ *logical.Request, data *framework.FieldData) (bool, error) {
	_, err := b.engine.ChannelType(ctx, named(data))
	return exists(err)
}

func (b *Backend) readChannel(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	c, err := b.engine.Channel(ctx, named(data))
	if err != nil {
		return nil, err
	}
	out := b.channels.public(c.Type, c.Values)
	lost := make([]any, 0, len(c.Lost))
	for _, l := range c.Lost {
		lost = append(lost, map[string]any{"time": renderTime(l.Time), "event": l.Event, "role": orNull(l.Role), "reason": l.Reason})
	}
	out["type"], out["waiting"], out["failures"], out["undelivered"], out["lost"] = c.Type, c.Waiting, c.Failures, c.LostTotal, lost
	out["failing_since"], out["next_attempt"], out["last_error"] = renderTime(c.FailingSince), renderTime(c.NextTime), orNull(c.LastError)
	return &logical.Response{Data: out}, nil
}

func (b *Backend) writeChannel(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	kind, err := b.channels.typeGiven(data, func() (string, error) { return b.engine.ChannelType(ctx, named(data)) })
	if err != nil {
		return nil, err
	}
	values, secrets, err := b.channels.collect(kind, data)
	if err != nil {
		return nil, err
	}
	warnings, err := b.engine.WriteChannel(ctx, backend.Write{Name: named(data), Given: values, Secrets: secrets, Actor: actor(req)})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Warnings: warnings}, nil
}

func (b *Backend) deleteChannel(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := deleteTakes(req); err != nil {
		return nil, err
	}
	if err := b.engine.DeleteChannel(ctx, named(data)); err != nil {
		return nil, err
	}
	return &logical.Response{}, nil
}

func (b *Backend) testChannel(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := b.engine.TestChannel(ctx, named(data), actor(req)); err != nil {
		return nil, err
	}
	return &logical.Response{}, nil
}

func (b *Backend) acknowledge(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	alarm, err := b.engine.Acknowledge(ctx, named(data), actor(req))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderAlarm(alarm)}, nil
}
