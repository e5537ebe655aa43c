// Package ledgerhttp reads a ledger over HTTP: [Handler] serves one, read only, and [Client] is a [Reader] of it. Who may read is
// for whoever mounts the handler to decide: it asks nobody for credentials.
//
//	GET /ledger/v1/asof        {"asOf": 1795258830}
//	GET /ledger/v1/totals      {"totals": [{...}]}
//	GET /ledger/v1/charged     {"charged": {"research": 3600000}}
//	GET /ledger/v1/segments    a JSON object in each line, one for each row of the ledger
//
// Parameters are those of ledger.Query and Store.Totals: from, to (Unix seconds), queue and namespace (any number of each; queue= is
// pods of no queue), pod (its UID), label, labelIs, open, rollups (true or false), by (any number, in the order of the keys), bucket
// and timeZone. A parameter that is not known is refused: it would otherwise select more than was meant. Errors are
// {"error": "..."} with a status of 400 and above.
//
// Numbers are 64-bit integers, also where they are more than 2^53: read them with a decoder that keeps them.
//
// Segments may be millions: they are sent as they are read. What goes wrong in the midst of them is a last line {"error": "..."}, after
// which the connection breaks off, so that nobody takes a part for the whole. A reader that stalls is cut off, and few are
// served at a time, because each holds a snapshot of the database.
package ledgerhttp
