// Package nodes is where a speaker has the Nodes from: its own from the API, and the others from
// what the controller publishes of them (see package config/digest), or from the API as well while
// that is not kept up to date. Begin with Nodes.
package nodes
