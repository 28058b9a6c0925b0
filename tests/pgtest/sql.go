package pgtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Connect logs in over TLS, with the full verification of the server. The caller
// closes the connection.
func (s *Server) Connect(ctx context.Context, user, password, database string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(s.URL(user, password, database))
	if err != nil {
		return nil, fmt.Errorf("connect to the test server: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.authority.PEM)
	config.TLSConfig = &tls.Config{RootCAs: roots, ServerName: s.Host(), MinVersion: tls.VersionTLS12}
	config.ConnectTimeout = 10 * time.Second
	return pgx.ConnectConfig(ctx, config)
}

// Exec runs statements as the superuser, each for itself.
func (s *Server) Exec(ctx context.Context, database string, statements ...string) error {
	return s.asSuperuser(ctx, database, func(conn *pgx.Conn) error {
		for _, statement := range statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
}

// QueryString runs a query as the superuser and returns its one value, which
// must be a text.
func (s *Server) QueryString(ctx context.Context, database, query string, args ...any) (string, error) {
	var value string
	err := s.asSuperuser(ctx, database, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, query, args...).Scan(&value)
	})
	return value, err
}

// CreateDatabase makes a database with an optional owner.
func (s *Server) CreateDatabase(ctx context.Context, name, owner string) error {
	statement := "CREATE DATABASE " + Ident(name)
	if owner != "" {
		statement += " OWNER " + Ident(owner)
	}
	return s.Exec(ctx, "postgres", statement)
}

// Ident quotes an identifier.
func Ident(name string) string { return pgx.Identifier{name}.Sanitize() }

func (s *Server) asSuperuser(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	conn, err := s.Connect(ctx, Superuser, s.superuserPassword, database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return do(conn)
}
