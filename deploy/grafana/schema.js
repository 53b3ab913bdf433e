// Holds dashboards to Grafana's own types, those of the version in docker-compose.yml.
//
//   node deploy/grafana/schema.js NODE_MODULES DASHBOARD.json…
//
// Grafana publishes its schema as TypeScript (@grafana/schema). Each dashboard, each panel's
// options and each panel's field settings become constants of these types, and TypeScript's
// compiler says what is missing, unknown or of a wrong type. Queries aren't in the schema:
// tests/tests/dashboards.rs runs them.

const fs = require('fs');
const path = require('path');

const [modules, ...files] = process.argv.slice(2);
const ts = require(path.resolve(modules, 'typescript'));
const types = path.resolve(modules, '@grafana/schema/dist/esm');
const PANELS = { timeseries: 'TimeSeries', stat: 'Stat', heatmap: 'Heatmap', table: 'Table' };
// Kinds whose field settings are the panel's own.
const CUSTOM = { timeseries: 'ui.GraphFieldConfig', table: 'ui.TableFieldOptions' };

const lines = [
  "import * as ui from '@grafana/schema';",
  // JSON has an enum's values, not its names.
  'type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;',
];
for (const [kind, name] of Object.entries(PANELS)) {
  lines.push(`import * as ${kind} from './raw/composable/${kind}/panelcfg/x/${name}PanelCfg_types.gen';`);
}
const where = [];
const constant = (type, value, what) => {
  where[lines.length] = what;
  lines.push(`export const c${lines.length}: Json<${type}> = ${JSON.stringify(value)};`);
};
for (const file of files) {
  const dashboard = JSON.parse(fs.readFileSync(file, 'utf8'));
  const name = path.basename(file);
  constant('ui.Dashboard', dashboard, name);
  for (const panel of dashboard.panels.filter((panel) => panel.type !== 'row')) {
    const what = `${name}, panel "${panel.title}"`;
    if (!PANELS[panel.type]) throw new Error(`${what}: schema.js doesn't know panels of type ${panel.type}`);
    constant(`${panel.type}.Options`, panel.options, `${what}, options`);
    if (CUSTOM[panel.type]) constant(CUSTOM[panel.type], panel.fieldConfig.defaults.custom, `${what}, custom`);
  }
}

const source = path.join(types, 'posthorn-dashboards.ts');
const options = {
  noEmit: true, strict: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler,
  baseUrl: types, paths: { '@grafana/schema': ['index.d.ts'] },
};
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists, readFile } = host;
host.fileExists = (file) => file === source || fileExists.call(host, file);
host.readFile = (file) => (file === source ? lines.join('\n') : readFile.call(host, file));
host.getSourceFile = (file, ...more) =>
  file === source ? ts.createSourceFile(file, lines.join('\n'), ...more) : getSourceFile.call(host, file, ...more);

const wrong = ts.getPreEmitDiagnostics(ts.createProgram([source], options, host));
for (const { file, start, messageText } of wrong) {
  const line = file ? file.getLineAndCharacterOfPosition(start).line : 0;
  console.error(`${where[line] || (file && file.fileName)}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`);
}
console.log(`${files.length} dashboards, ${where.filter(Boolean).length} values held to Grafana's schema: ${wrong.length} wrong`);
process.exitCode = wrong.length ? 1 : 0;
